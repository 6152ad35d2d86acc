"""A small server of the contract, in the process of the test, that does what the test scripts it to do."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from holdfast.kit.rpc.server import Registration, Server
from holdfast.v1 import (
    effect_pb2,
    event_service_pb2,
    event_service_pb2_grpc,
    invoker_service_pb2,
    invoker_service_pb2_grpc,
    outbox_service_pb2,
    outbox_service_pb2_grpc,
    run_pb2,
    transcript_pb2,
)

RUN_ID = "0190f3a0-0000-7000-8000-000000000001"

Context = grpc.aio.ServicerContext[Any, Any]


def run(**fields: Any) -> run_pb2.Run:
    return run_pb2.Run(**{"run_id": RUN_ID, "intent": "greet", "status": run_pb2.RUN_STATUS_QUEUED, **fields})


def event(sequence: int, epoch: int = 1, **kind: Any) -> transcript_pb2.RunEvent:
    happened = kind or {"token": transcript_pb2.Token(text=f"t{sequence}")}
    return transcript_pb2.RunEvent(run_id=RUN_ID, sequence=sequence, epoch=epoch, **happened)


def ended(sequence: int, epoch: int = 1) -> transcript_pb2.RunEvent:
    outcome = run_pb2.Outcome(status=run_pb2.RUN_STATUS_SUCCEEDED)
    return event(sequence, epoch, ended=transcript_pb2.RunEnded(outcome=outcome))


class ScriptedInvoker(invoker_service_pb2_grpc.InvokerServiceServicer):
    """Answers a method with what the test put under its name; keeps what it was asked."""

    def __init__(self) -> None:
        self.script: dict[str, Callable[[Any, Context], Any]] = {}
        self.asked: list[Any] = []
        self.tenants: list[str] = []

    async def _answer(self, name: str, request: Any, context: Context) -> Any:
        self.asked.append(request)
        metadata = dict(context.invocation_metadata() or ())
        self.tenants.append(str(metadata.get("holdfast-tenant", "")))
        answer = self.script[name](request, context)
        return await answer if isinstance(answer, Awaitable) else answer

    async def Invoke(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        return await self._answer("Invoke", request, context)

    async def AwaitRun(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("AwaitRun", request, context)

    async def GetRun(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("GetRun", request, context)

    async def ListRuns(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("ListRuns", request, context)

    async def CancelRun(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("CancelRun", request, context)

    async def PauseRun(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("PauseRun", request, context)

    async def ResumeRun(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("ResumeRun", request, context)

    async def ActOnRuns(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for message in self.script["ActOnRuns"](request, context):
            yield message

    async def RetryRun(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("RetryRun", request, context)

    async def GetSession(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("GetSession", request, context)

    async def DeleteSession(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("DeleteSession", request, context)

    async def InterruptRun(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("InterruptRun", request, context)

    async def SignalRun(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("SignalRun", request, context)

    async def WatchRun(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.asked.append(request)
        async for message in self.script["WatchRun"](request, context):
            yield message

    async def Converse(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for message in self.script["Converse"](request_iterator, context):
            yield message


class ScriptedEvents(event_service_pb2_grpc.EventServiceServicer):
    """Refuses events without payload and keeps the sizes of the groups."""

    def __init__(self) -> None:
        self.groups: list[int] = []

    async def PublishEvents(self, request: Any, context: Any) -> Any:  # noqa: N802
        del context
        self.groups.append(len(request.events))
        results = []
        for one in request.events:
            if one.HasField("payload"):
                results.append(event_service_pb2.PublishedEvent(run_id=RUN_ID))
                continue
            refusal = event_service_pb2.EventRefusal(
                code=3, reason="INVALID_FIELD", message="it must be given", field="payload"
            )
            results.append(event_service_pb2.PublishedEvent(refusal=refusal))
        return event_service_pb2.PublishEventsResponse(results=results)

    async def SetAsideEvents(self, request: Any, context: Any) -> Any:  # noqa: N802
        del request, context
        return event_service_pb2.SetAsideEventsResponse()

    async def ListRefusedEvents(self, request: Any, context: Any) -> Any:  # noqa: N802
        del request, context
        return event_service_pb2.ListRefusedEventsResponse()

    async def RetryRefusedEvent(self, request: Any, context: Any) -> Any:  # noqa: N802
        del context
        return event_service_pb2.RetryRefusedEventResponse(event_id=request.event_id + 1)

    async def DiscardRefusedEvent(self, request: Any, context: Any) -> Any:  # noqa: N802
        del request, context
        return event_service_pb2.DiscardRefusedEventResponse()


class ScriptedOutbox(outbox_service_pb2_grpc.OutboxServiceServicer):
    """Gives back the destination it is given, and two pages of effects."""

    async def PutDestination(self, request: Any, context: Any) -> Any:  # noqa: N802
        del context
        return outbox_service_pb2.PutDestinationResponse(destination=request.destination)

    async def ListEffects(self, request: Any, context: Any) -> Any:  # noqa: N802
        del context
        number = 2 if request.page_token else 1
        effect = effect_pb2.Effect(
            effect_id=f"e{number}", destination="crm", status=effect_pb2.EFFECT_STATUS_DEAD_LETTERED
        )
        return outbox_service_pb2.ListEffectsResponse(
            effects=[effect], next_page_token="" if request.page_token else "next"
        )


class ContractServer:
    """The scripted services behind real gRPC, with the kit's interceptors."""

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        self.invoker = ScriptedInvoker()
        self.events = ScriptedEvents()
        self._server = self._made(address)

    @property
    def address(self) -> str:
        return self._server.address

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    async def restart(self) -> None:
        """Break every connection and come back at the same address."""
        await self.stop()
        self._server = self._made(self.address)
        await self.start()

    def _made(self, address: str) -> Server:
        add = invoker_service_pb2_grpc.add_InvokerServiceServicer_to_server
        services = [
            Registration(add, self.invoker, "holdfast.v1.InvokerService"),
            Registration(
                event_service_pb2_grpc.add_EventServiceServicer_to_server,
                self.events,
                "holdfast.v1.EventService",
            ),
            Registration(
                outbox_service_pb2_grpc.add_OutboxServiceServicer_to_server,
                ScriptedOutbox(),  # type: ignore[abstract]  # the other methods are UNIMPLEMENTED
                "holdfast.v1.OutboxService",
            ),
        ]
        return Server(services, address)


@asynccontextmanager
async def contract_server() -> AsyncIterator[ContractServer]:
    server = ContractServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def invoked(**fields: Any) -> invoker_service_pb2.InvokeResponse:
    return invoker_service_pb2.InvokeResponse(run=run(**fields))
