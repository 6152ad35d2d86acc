"""Signals to a run: each call has an id, so that repeating it sends nothing twice."""

import uuid
from typing import Any

from holdfast.client.link import Link
from holdfast.client.wire_value import value_of
from holdfast.v1 import invoker_service_pb2, invoker_service_pb2_grpc

Stub = invoker_service_pb2_grpc.InvokerServiceStub


async def signal(stub: Stub, link: Link, run_id: str, *, key: str, payload: Any, signal_id: str) -> str:
    """Put a message in a run's mailbox; it is durable when this returns its id."""
    request = invoker_service_pb2.SignalRunRequest(
        run_id=run_id, key=key, payload=value_of(payload), signal_id=signal_id or str(uuid.uuid4())
    )
    return str((await link.call(stub.SignalRun, request)).signal_id)


async def interrupt(stub: Stub, link: Link, run_id: str, *, payload: Any, signal_id: str) -> str:
    """Hand urgent input to a run; it is durable when this returns its id."""
    request = invoker_service_pb2.InterruptRunRequest(
        run_id=run_id, payload=value_of(payload), signal_id=signal_id or str(uuid.uuid4())
    )
    return str((await link.call(stub.InterruptRun, request)).signal_id)
