"""Effects go to real gRPC servers: by name of a method, as JSON through reflection or as bytes."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection

from holdfast.dispatcher.grpc_call import url_of
from holdfast.kit.db import Database
from holdfast.ledger.domain.delivery import DeliveryMode, EffectStatus
from holdfast.ledger.outbox import StagedEffect
from holdfast.v1 import outbox_service_pb2 as pb
from holdfast.v1.outbox_service_pb2_grpc import OutboxServiceServicer, add_OutboxServiceServicer_to_server
from tests.support.dispatching import QUICK, Dispatchers, all_ended, until
from tests.support.outbox import make_destination, stage, staged, view_of

METHOD = "holdfast.v1.OutboxService/DiscardEffect"
BODY = json.dumps({"effectId": "e1", "reason": "grüß"}).encode()


class Sink(OutboxServiceServicer):
    """Some service of somebody's; `codes` are what it answers first, None lets a call hang."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.codes: list[grpc.StatusCode | None] = []
        self.target = ""

    async def DiscardEffect(self, request: Any, context: Any) -> Any:  # noqa: N802
        metadata = dict(context.invocation_metadata())
        self.calls.append((request.effect_id, request.reason, metadata["idempotency-key"]))
        if self.codes:
            code = self.codes.pop(0)
            if code is None:
                await asyncio.Event().wait()
            else:
                await context.abort(code, "as scripted")
        return pb.DiscardEffectResponse()


async def serve(sink: Sink, *, reflects: bool) -> grpc.aio.Server:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_OutboxServiceServicer_to_server(sink, server)
    if reflects:
        reflection.enable_server_reflection(["holdfast.v1.OutboxService"], server)
    sink.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    return server


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    sink = Sink()  # type: ignore[abstract]  # the other methods are nobody's
    server = await serve(sink, reflects=True)
    yield sink
    await server.stop(0)


async def to_sink(db: Database, sink: Sink, *, method: str = METHOD, raw: bool = False, **more: Any) -> None:
    url = url_of(sink.target, method, plaintext=True, raw=raw)
    await make_destination(db, "rpc", url=url, retry=QUICK, **more)


async def why(db: Database, effect: StagedEffect) -> str:
    """Wait for the first failure of an effect, and return its reason."""

    async def has_failed() -> bool:
        return (await view_of(db, effect.effect_id)).last_failure is not None

    await until(has_failed)
    failure = (await view_of(db, effect.effect_id)).last_failure
    return failure.reason if failure else ""


async def test_json_becomes_the_request_that_the_server_says_the_method_takes(
    db: Database, sink: Sink, dispatchers: Dispatchers
) -> None:
    await to_sink(db, sink)
    await stage(db, staged("rpc", key="a b", body=BODY), staged("rpc", key="c", body=BODY))
    await dispatchers.start()
    await all_ended(db, 2)
    assert sorted(sink.calls) == [("e1", "grüß", "a%20b"), ("e1", "grüß", "c")]


async def test_bytes_are_sent_as_they_are_to_a_server_without_reflection(
    db: Database, dispatchers: Dispatchers
) -> None:
    sink = Sink()  # type: ignore[abstract]  # the other methods are nobody's
    server = await serve(sink, reflects=False)
    await to_sink(db, sink, raw=True)
    message = pb.DiscardEffectRequest(effect_id="e2").SerializeToString()
    await stage(db, staged("rpc", body=json.dumps(base64.b64encode(message).decode()).encode()))
    await dispatchers.start()
    await all_ended(db, 1)
    assert sink.calls[0][0] == "e2"
    await server.stop(0)


async def test_what_may_pass_is_tried_again_and_what_will_not_is_set_aside(
    db: Database, sink: Sink, dispatchers: Dispatchers
) -> None:
    await to_sink(db, sink, timeout_s=0.5)
    code = grpc.StatusCode
    sink.codes = [code.UNAVAILABLE, code.RESOURCE_EXHAUSTED, code.INTERNAL, None]
    first, second = staged("rpc", body=BODY), staged("rpc", body=BODY)
    await stage(db, first)
    await dispatchers.start()
    await all_ended(db, 1)
    history = (await view_of(db, first.effect_id)).history
    reasons = [attempt.failure.reason if attempt.failure else "" for attempt in history]
    assert reasons == ["GRPC_UNAVAILABLE", "GRPC_RESOURCE_EXHAUSTED", "GRPC_INTERNAL", "TIMEOUT", ""]
    sink.codes = [code.INVALID_ARGUMENT]
    await stage(db, second)
    await all_ended(db, 1, EffectStatus.DEAD_LETTERED)


async def test_a_body_that_does_not_fit_is_set_aside_without_a_call(
    db: Database, sink: Sink, dispatchers: Dispatchers
) -> None:
    await to_sink(db, sink)
    bodies = [b'{"nothing":1}', b"[]", b'"x"', b"7", b'{"reason":{}}']
    await stage(db, *(staged("rpc", body=body) for body in bodies))
    await dispatchers.start()
    await all_ended(db, len(bodies), EffectStatus.DEAD_LETTERED)
    assert sink.calls == []


@pytest.mark.parametrize("method", ["holdfast.v1.OutboxService/Missing", "no.Service/X"])
async def test_a_method_that_the_server_does_not_have_parks_effects_instead_of_losing_them(
    db: Database, sink: Sink, dispatchers: Dispatchers, method: str
) -> None:
    await to_sink(db, sink, method=method)
    effect = staged("rpc", body=BODY)
    await stage(db, effect)
    await dispatchers.start()
    assert await why(db, effect) == "METHOD_UNKNOWN"
    await to_sink(db, sink)
    await all_ended(db, 1)


async def test_an_uncertain_call_that_may_be_made_once_only_is_not_repeated(
    db: Database, sink: Sink, dispatchers: Dispatchers
) -> None:
    await to_sink(db, sink, mode=DeliveryMode.AT_MOST_ONCE)
    sink.codes = [grpc.StatusCode.UNAVAILABLE]
    await stage(db, staged("rpc", body=BODY))
    await dispatchers.start()
    await all_ended(db, 1, EffectStatus.DEAD_LETTERED)
    assert len(sink.calls) == 1


async def test_a_server_whose_address_is_refused_at_the_connection_gets_no_call(
    db: Database, sink: Sink, dispatchers: Dispatchers
) -> None:
    port = sink.target.rpartition(":")[2]

    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1", "169.254.169.254"]

    url = url_of(f"rebound.example:{port}", METHOD, plaintext=True, raw=False)
    await make_destination(db, "rpc", url=url, retry=QUICK)
    effect = staged("rpc", body=BODY)
    await stage(db, effect)
    await dispatchers.start(resolve=resolve)
    assert (await why(db, effect), sink.calls) == ("ADDRESS_REFUSED", [])
