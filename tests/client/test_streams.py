"""A watcher holds the true transcript, whatever its connections do; leaving ends the server's work."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from holdfast.client import Client, Event, Invocation, Rewound, Snapshot, Started, errors
from holdfast.client.channel import open_channel
from holdfast.kit import errors as faults
from holdfast.v1 import invoker_service_pb2 as pb
from holdfast.v1 import run_pb2, transcript_pb2
from tests.client.contract_server import RUN_ID, ContractServer, contract_server, ended, event, run


def seen(update: transcript_pb2.RunEvent) -> pb.WatchRunResponse:
    return pb.WatchRunResponse(event=update)


async def test_events_come_in_order_until_the_run_has_ended(server: ContractServer, client: Client) -> None:
    async def script(*_: Any) -> AsyncIterator[Any]:
        yield seen(event(1, accepted=transcript_pb2.RunAccepted(budget=run_pb2.Budget(max_steps=3))))
        yield seen(event(2))
        yield seen(ended(3))

    server.invoker.script["WatchRun"] = script
    async with client.watch(RUN_ID) as events:
        updates = [update async for update in events]
    assert [update.kind for update in updates if isinstance(update, Event)] == ["accepted", "token", "ended"]
    first, token, last = updates
    assert isinstance(first, Event)
    assert first.data["budget"]["max_steps"] == 3
    assert isinstance(token, Event)
    assert token.text == "t2"
    assert isinstance(last, Event)
    assert last.data["outcome"]["status"] == "SUCCEEDED"


async def test_a_broken_stream_is_resumed_from_the_cursor_with_its_epoch(
    server: ContractServer, client: Client
) -> None:
    async def script(request: Any, _: Any) -> AsyncIterator[Any]:
        if request.after_sequence == 0:
            yield seen(event(1))
            yield seen(event(2, epoch=4))
            raise faults.LedgerUnavailable("away")
        yield pb.WatchRunResponse(rewound=transcript_pb2.Rewound(run_id=RUN_ID, to_sequence=1))
        yield seen(event(2, epoch=5))
        yield seen(ended(3, epoch=5))

    server.invoker.script["WatchRun"] = script
    async with client.watch(RUN_ID) as events:
        updates = [update async for update in events]
    assert [(one.after_sequence, one.after_epoch) for one in server.invoker.asked] == [(0, 0), (2, 4)]
    assert updates[2] == Rewound(RUN_ID, 1)
    assert [update.sequence for update in updates if isinstance(update, Event)] == [1, 2, 2, 3]


async def test_a_server_that_restarts_is_found_again(server: ContractServer, client: Client) -> None:
    forever = asyncio.Event()

    async def script(request: Any, _: Any) -> AsyncIterator[Any]:
        if request.after_sequence == 0:
            yield seen(event(1))
            await forever.wait()
        yield seen(ended(2))

    server.invoker.script["WatchRun"] = script
    async with client.watch(RUN_ID) as events:
        first = await anext(events)
        assert isinstance(first, Event)
        rest = asyncio.create_task(anext(events))
        await server.restart()
        last = await asyncio.wait_for(rest, 10)
    assert isinstance(last, Event)
    assert last.kind == "ended"


async def test_a_cursor_that_was_rewound_or_replaced_is_a_committed_one(
    server: ContractServer, client: Client
) -> None:
    async def script(*_: Any) -> AsyncIterator[Any]:
        if len(server.invoker.asked) == 1:
            yield pb.WatchRunResponse(snapshot=transcript_pb2.Snapshot(run=run(), sequence=7))
            raise faults.RunnerUnreachable("away")
        yield seen(ended(8))

    server.invoker.script["WatchRun"] = script
    async with client.watch(RUN_ID, after_sequence=2, after_epoch=9) as events:
        updates = [update async for update in events]
    assert isinstance(updates[0], Snapshot)
    assert [(one.after_sequence, one.after_epoch) for one in server.invoker.asked] == [(2, 9), (7, 0)]


async def test_a_run_that_was_retried_is_followed_beyond_its_first_end(
    server: ContractServer, client: Client
) -> None:
    async def watch(*_: Any) -> AsyncIterator[Any]:
        for one in (ended(2), event(3, 2, requeued=transcript_pb2.RunRequeued()), ended(4, epoch=3)):
            yield seen(one)

    async def converse(*_: Any) -> AsyncIterator[Any]:
        yield pb.ConverseResponse(started=pb.ConverseStarted(run=run(last_sequence=4)))
        for one in (ended(2), event(3, 2, requeued=transcript_pb2.RunRequeued()), ended(4, epoch=3)):
            yield pb.ConverseResponse(event=one)
        await asyncio.Event().wait()  # a server waits for the next run

    server.invoker.script["WatchRun"] = watch
    server.invoker.script["Converse"] = converse
    async with client.watch(RUN_ID) as events:
        watched = [update.sequence async for update in events if isinstance(update, Event)]
    async with client.attach(RUN_ID) as talk:
        told = [update.sequence async for update in talk if isinstance(update, Event)]
    assert watched == told == [2, 3, 4]


async def test_a_stream_that_breaks_after_the_end_is_over(server: ContractServer, client: Client) -> None:
    async def script(*_: Any) -> AsyncIterator[Any]:
        yield seen(ended(1))
        raise faults.ShuttingDown("draining")

    server.invoker.script["WatchRun"] = script
    async with client.watch(RUN_ID) as events:
        assert [update async for update in events]
    assert len(server.invoker.asked) == 1


async def test_a_refusal_of_a_stream_is_raised_and_not_repeated(
    server: ContractServer, client: Client
) -> None:
    async def script(*_: Any) -> AsyncIterator[Any]:
        if server.invoker.asked:
            raise faults.SequenceOutOfRange("too far")
        yield seen(event(1))

    server.invoker.script["WatchRun"] = script
    with pytest.raises(errors.SequenceOutOfRange):
        await anext(client.watch(RUN_ID, 99))
    assert len(server.invoker.asked) == 1


async def test_leaving_a_watch_ends_the_server_s_handler(server: ContractServer, client: Client) -> None:
    over = asyncio.Event()

    async def script(*_: Any) -> AsyncIterator[Any]:
        try:
            yield seen(event(1))
            await asyncio.Event().wait()
        finally:
            over.set()

    server.invoker.script["WatchRun"] = script
    async with client.watch(RUN_ID) as events:
        await anext(events)
    await asyncio.wait_for(over.wait(), 5)


async def test_a_watch_cut_off_by_a_timeout_goes_on_where_it_was(
    server: ContractServer, client: Client
) -> None:
    release = asyncio.Event()

    async def script(request: Any, _: Any) -> AsyncIterator[Any]:
        if request.after_sequence == 0:
            yield seen(event(1))
        await release.wait()
        yield seen(ended(2))

    server.invoker.script["WatchRun"] = script
    async with client.watch(RUN_ID) as events:
        await anext(events)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 0.05)
        release.set()
        last = await anext(events)
    assert isinstance(last, Event)
    assert last.sequence == 2


async def test_a_conversation_starts_a_run_and_carries_its_cancel(
    server: ContractServer, client: Client
) -> None:
    async def script(requests: Any, _: Any) -> AsyncIterator[Any]:
        async for request in requests:
            server.invoker.asked.append(request)
            if request.WhichOneof("message") == "start":
                yield pb.ConverseResponse(started=pb.ConverseStarted(run=run()))
                yield pb.ConverseResponse(event=event(1))
            else:
                asked = transcript_pb2.CancelRequested(reason=request.cancel.reason)
                yield pb.ConverseResponse(event=event(2, cancel_requested=asked))
                yield pb.ConverseResponse(event=ended(3))

    server.invoker.script["Converse"] = script
    kinds = []
    async with client.converse("greet", {"name": "Ada"}) as talk:
        async for update in talk:
            kinds.append(update.kind if isinstance(update, Event) else type(update).__name__)
            if isinstance(update, Event) and update.sequence == 1:
                await talk.cancel("enough")
    assert kinds == ["Started", "token", "cancel_requested", "ended"]
    assert server.invoker.asked[0].start.invocation.idempotency_key


async def test_a_conversation_that_breaks_is_joined_again_at_its_cursor(
    server: ContractServer, client: Client
) -> None:
    async def script(requests: Any, _: Any) -> AsyncIterator[Any]:
        request = await anext(aiter(requests))
        server.invoker.asked.append(request)
        yield pb.ConverseResponse(started=pb.ConverseStarted(run=run()))
        if request.WhichOneof("message") == "start":
            yield pb.ConverseResponse(event=event(1, epoch=3))
            raise faults.ShuttingDown("draining")
        yield pb.ConverseResponse(event=ended(2, epoch=3))

    server.invoker.script["Converse"] = script
    async with client.converse(Invocation("greet", idempotency_key="k")) as talk:
        updates = [update async for update in talk]
    assert [type(update) for update in updates] == [Started, Event, Event]
    attach = server.invoker.asked[1].attach
    assert (attach.run_id, attach.after_sequence, attach.after_epoch) == (RUN_ID, 1, 3)


async def test_a_conversation_that_broke_before_it_began_is_started_under_the_same_key(
    server: ContractServer, client: Client
) -> None:
    async def script(requests: Any, _: Any) -> AsyncIterator[Any]:
        server.invoker.asked.append(await anext(aiter(requests)))
        if len(server.invoker.asked) == 1:
            raise faults.LedgerUnavailable("away")
        yield pb.ConverseResponse(started=pb.ConverseStarted(run=run(), reattached=True))
        yield pb.ConverseResponse(event=ended(1))

    server.invoker.script["Converse"] = script
    async with client.converse("greet") as talk:
        updates = [update async for update in talk]
    first, second = (one.start.invocation.idempotency_key for one in server.invoker.asked)
    assert first == second
    assert isinstance(updates[0], Started)


async def test_attaching_to_a_run_of_which_nothing_is_missing_ends_at_once(
    server: ContractServer, client: Client
) -> None:
    async def script(requests: Any, _: Any) -> AsyncIterator[Any]:
        await anext(aiter(requests))
        done = run(status=run_pb2.RUN_STATUS_SUCCEEDED, last_sequence=5)
        yield pb.ConverseResponse(started=pb.ConverseStarted(run=done, reattached=True))
        await asyncio.Event().wait()

    server.invoker.script["Converse"] = script
    async with client.attach(RUN_ID, after_sequence=5) as talk:
        updates = [update async for update in talk]
    assert [type(update) for update in updates] == [Started]


async def test_a_stream_goes_on_at_another_address_and_says_what_was_lost(server: ContractServer) -> None:
    forever = asyncio.Event()

    async def script(request: Any, _: Any) -> AsyncIterator[Any]:
        if request.after_sequence == 0:
            yield seen(event(1))
            await forever.wait()
        yield seen(ended(2))

    lost: list[errors.HoldfastError] = []
    async with contract_server() as other, Client([server.address, other.address]) as client:
        both = (server, other)
        for one in both:
            one.invoker.script["WatchRun"] = script
        async with client.watch(RUN_ID, on_lost=lost.append) as events:
            await anext(events)
            (first,) = [one for one in both if one.invoker.asked]
            await first.stop()
            last = await asyncio.wait_for(anext(events), 10)
    assert isinstance(last, Event)
    assert last.kind == "ended"
    assert {type(error) for error in lost} == {errors.Unavailable}


async def test_a_conversation_says_what_was_lost(server: ContractServer, client: Client) -> None:
    async def script(requests: Any, _: Any) -> AsyncIterator[Any]:
        server.invoker.asked.append(await anext(aiter(requests)))
        yield pb.ConverseResponse(started=pb.ConverseStarted(run=run()))
        if len(server.invoker.asked) == 1:
            raise faults.ShuttingDown("draining")
        yield pb.ConverseResponse(event=ended(1))

    server.invoker.script["Converse"] = script
    lost: list[errors.HoldfastError] = []
    async with client.converse("greet", on_lost=lost.append) as talk:
        assert [type(update) async for update in talk] == [Started, Event]
    assert [error.reason for error in lost] == ["SHUTTING_DOWN"]


def test_addresses_that_are_names_cannot_be_joined() -> None:
    with pytest.raises(ValueError, match="must be numeric"):
        open_channel(["one:1", "two:2"])


def handed_off(sequence: int) -> transcript_pb2.RunEvent:
    budget = run_pb2.Budget(deadline_ms=60_000)
    return event(sequence, handed_off=transcript_pb2.HandedOff(run_id=RUN_ID, budget=budget))


async def test_a_conversation_ends_where_its_run_moves_to_the_background(
    server: ContractServer, client: Client
) -> None:
    left = asyncio.Event()

    async def script(requests: Any, _: Any) -> AsyncIterator[Any]:
        await anext(aiter(requests))
        yield pb.ConverseResponse(started=pb.ConverseStarted(run=run()))
        yield pb.ConverseResponse(event=handed_off(1))
        try:
            await asyncio.Event().wait()  # the client has not closed its side: the server waits for a start
        finally:
            left.set()

    server.invoker.script["Converse"] = script
    async with asyncio.timeout(10), client.converse("greet") as talk:
        updates = [update async for update in talk]
        assert [type(update) for update in updates] == [Started, Event]
        assert talk.handed_off
        assert talk.cursor.sequence == 1
        await left.wait()


async def test_a_conversation_that_joins_a_run_in_the_background_goes_on_to_its_end(
    server: ContractServer, client: Client
) -> None:
    async def script(requests: Any, _: Any) -> AsyncIterator[Any]:
        await anext(aiter(requests))
        yield pb.ConverseResponse(started=pb.ConverseStarted(run=run(handed_off=True)))
        yield pb.ConverseResponse(event=handed_off(1))
        yield pb.ConverseResponse(event=ended(2))

    server.invoker.script["Converse"] = script
    async with asyncio.timeout(10), client.attach(RUN_ID) as talk:
        kinds = [update.kind async for update in talk if isinstance(update, Event)]
    assert kinds == ["handed_off", "ended"]
    assert not talk.handed_off
    assert talk.run is not None
    assert talk.run.handed_off


async def test_what_is_said_in_a_conversation_survives_its_broken_stream(
    server: ContractServer, client: Client
) -> None:
    broken = asyncio.Event()
    said: dict[str, Any] = {}

    async def converse(requests: Any, _: Any) -> AsyncIterator[Any]:
        opening = await anext(aiter(requests))
        yield pb.ConverseResponse(started=pb.ConverseStarted(run=run(last_sequence=1)))
        if opening.HasField("start"):
            yield pb.ConverseResponse(event=event(1))
            await broken.wait()
            raise faults.LedgerUnavailable("away")
        # Answers of a later contract, and to other clients' words, are passed over.
        yield pb.ConverseResponse(signalled=pb.ConverseSignalled(run_id=RUN_ID, signal_id="x"))
        yield pb.ConverseResponse(refused=pb.ConverseRefused(run_id=RUN_ID, signal_id="y"))
        yield pb.ConverseResponse(event=ended(2))

    def signal(request: Any, _: Any) -> Any:
        broken.set()
        first = request.signal_id not in said
        said.setdefault(request.signal_id, request)
        if first:  # taken, and the answer lost
            raise faults.ShuttingDown("draining")
        return pb.SignalRunResponse(signal_id=request.signal_id)

    server.invoker.script["Converse"] = converse
    server.invoker.script["SignalRun"] = signal
    server.invoker.script["InterruptRun"] = signal
    async with client.converse("greet") as talk:
        with pytest.raises(RuntimeError, match="Started"):
            await talk.input("too early")
        async for update in talk:
            if isinstance(update, Event) and update.sequence == 1:
                await talk.input("hello")
                await talk.interrupt({"stop": True}, signal_id="mine")
    kinds = [(type(each).__name__, each.signal_id == "mine") for each in said.values()]
    assert kinds == [("SignalRunRequest", False), ("InterruptRunRequest", True)]
    assert [each.payload.string_value for each in said.values()] == ["hello", ""]
