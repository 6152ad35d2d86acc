"""A server that is stopped cancels calls that reach it just then: for a run that is as if it were away."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message import Message

from holdfast.runner.children import InvokerChildren
from holdfast.runner.gates import ApprovalGates
from holdfast.v1.approval_service_pb2 import RequestApprovalRequest, RequestApprovalResponse
from holdfast.v1.invoker_service_pb2 import InvokeRequest, InvokeResponse


@asynccontextmanager
async def replaced(service: str, method: str, asked: type[Message], answer: Message) -> AsyncIterator[str]:
    """Answer the first call as a server that is being stopped, and the next as the one after it."""
    came = []

    async def handle(request: Any, context: Any) -> Message:
        came.append(request)
        if len(came) == 1:
            await context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")
        return answer

    handler: Any = grpc.unary_unary_rpc_method_handler(
        handle, asked.FromString, lambda message: message.SerializeToString()
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
        assert len(came) == 2
    finally:
        await server.stop(None)


async def test_a_gate_is_asked_for_again() -> None:
    answer = RequestApprovalResponse(reattached=True)
    async with replaced(
        "holdfast.v1.ApprovalService", "RequestApproval", RequestApprovalRequest, answer
    ) as address:
        gates = ApprovalGates([address])
        assert (await gates.request(RequestApprovalRequest())).found
        await gates.close()


async def test_a_child_is_started_again() -> None:
    answer = InvokeResponse(reattached=True)
    async with replaced("holdfast.v1.InvokerService", "Invoke", InvokeRequest, answer) as address:
        children = InvokerChildren([address])
        assert (await children.invoke(InvokeRequest())).reattached
        await children.close()
