"""Events that services stage become runs: each once, in order, and no bad one holds others up."""

from typing import Any

import asyncpg
import grpc
import pytest

from holdfast.invoker.inbox import Inbox
from holdfast.v1 import event_service_pb2 as pb
from holdfast.v1.invoker_service_pb2 import InvokeRequest
from holdfast.v1.run_pb2 import Caller
from tests.invoker.stand import Invoker, invoker, poison, reason_of

TRACE = f"00-{1:032x}-{1:016x}-01"
pytestmark = pytest.mark.usefixtures("worker")


async def execute(door: Invoker, statement: str, *arguments: Any) -> Any:
    connection = await asyncpg.connect(door.url, server_settings={"search_path": "holdfast"})
    try:
        return await connection.fetch(statement, *arguments)
    finally:
        await connection.close()


async def enqueue(door: Invoker, arguments: str) -> None:
    await execute(door, f"SELECT enqueue_run({arguments})")


async def trace(door: Invoker) -> str:
    """Return where the only run goes on."""
    (run,) = await execute(door, "SELECT envelope FROM run")
    return InvokeRequest.FromString(run["envelope"]).traceparent


async def keys(door: Invoker) -> list[str]:
    rows = await execute(door, "SELECT idempotency_key FROM run ORDER BY seq")
    return [row["idempotency_key"] for row in rows]


async def drained(door: Invoker) -> None:
    async def empty() -> bool:
        return not await execute(door, "SELECT FROM run_inbox")

    await until_async(empty)


async def until_async(condition: Any) -> None:
    import asyncio

    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - of a database: nothing to wait on
            await asyncio.sleep(0.02)


async def test_a_staged_run_reaches_a_runner(door: Invoker) -> None:
    await enqueue(
        door,
        "'count', '{\"n\": 1}', 'order/1', caller_user => 'u', labels => '{\"a\": \"b\"}', priority => 3",
    )
    await drained(door)
    (row,) = await execute(door, "SELECT run_id, tenant FROM run")
    run = await door.run(str(row["run_id"]))
    assert (run.intent, run.caller.user, run.labels["a"]) == ("count", "u", "b")


async def test_an_event_staged_twice_is_one_run(door: Invoker) -> None:
    for _ in range(3):
        await enqueue(door, "'count', '{}', 'same'")
    await drained(door)
    assert await keys(door) == ["same"]


async def test_events_of_one_order_become_runs_in_that_order(door: Invoker) -> None:
    await enqueue(
        door, "'count', '{}', n::text, ordering_key => 'k') FROM (SELECT generate_series(1, 300) n) s --"
    )
    await drained(door)
    assert await keys(door) == [str(n) for n in range(1, 301)]
    assert await execute(door, "SELECT FROM run_inbox_lane") == []


async def test_what_can_never_be_a_run_is_set_aside_and_holds_nobody_up(door: Invoker) -> None:
    await enqueue(door, "'nobody_serves', '{}', 'unknown'")
    await enqueue(door, "'count', '{\"n\": 1e999}', 'huge'")
    await enqueue(door, "'count', '{}', 'labels', labels => '{\"a\": 1}'")
    await enqueue(door, "'count', '{}', 'good', ordering_key => 'k'")
    await drained(door)
    assert await keys(door) == ["good"]
    page = await door.events.ListRefusedEvents(pb.ListRefusedEventsRequest(page_size=2))
    rest = await door.events.ListRefusedEvents(
        pb.ListRefusedEventsRequest(page_size=2, page_token=page.next_page_token)
    )
    found = {e.idempotency_key: (e.refusal.reason, e.refusal.field) for e in [*page.events, *rest.events]}
    assert found["unknown"] == ("UNKNOWN_INTENT", "")
    assert found["huge"][0] == "INVALID_FIELD"
    assert found["labels"] == ("INVALID_FIELD", "labels")


async def test_large_refused_events_are_listed_page_by_page_and_one_too_large_as_text(door: Invoker) -> None:
    text = "jsonb_build_object('x', repeat('y', 900000))"
    numbers = "jsonb_build_object('x', array_fill(1, ARRAY[300000]))"  # a Struct of more than a message holds
    await enqueue(door, f"'nobody_serves', {text}, n::text) FROM generate_series(1, 6) n --")
    await enqueue(door, f"'nobody_serves', {numbers}, 'numbers'")
    await drained(door)
    found: list[Any] = []
    token = ""
    while len(found) < 7:
        page = await door.events.ListRefusedEvents(pb.ListRefusedEventsRequest(page_token=token))
        found += page.events
        token = page.next_page_token
    assert [event.idempotency_key for event in found] == ["1", "2", "3", "4", "5", "6", "numbers"]
    assert len(found[0].payload["x"]) == 900_000
    assert (found[6].HasField("payload"), found[6].text[:9]) == (False, '{"x": [1,')
    assert not token


async def test_a_refused_event_is_sent_again_or_given_up_once(door: Invoker) -> None:
    await enqueue(door, f"'later', '{{}}', 'a', traceparent => '{TRACE}'")
    await enqueue(door, "'later', '{}', 'b'")
    await drained(door)
    first, second = (await door.events.ListRefusedEvents(pb.ListRefusedEventsRequest())).events
    door.parts.intents.add(["later"])
    await door.events.RetryRefusedEvent(pb.RetryRefusedEventRequest(event_id=first.event_id))
    await door.events.DiscardRefusedEvent(pb.DiscardRefusedEventRequest(event_id=second.event_id))
    await drained(door)
    assert await keys(door) == ["a"]
    assert await trace(door) == TRACE
    assert not (await door.events.ListRefusedEvents(pb.ListRefusedEventsRequest())).events
    for call, request in (
        (door.events.RetryRefusedEvent, pb.RetryRefusedEventRequest(event_id=first.event_id)),
        (door.events.DiscardRefusedEvent, pb.DiscardRefusedEventRequest(event_id=second.event_id)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as gone:
            await call(request)
        assert reason_of(gone.value) == "EVENT_NOT_FOUND"


async def test_a_tenant_sees_and_touches_no_other_tenants_refused_events(door: Invoker) -> None:
    await enqueue(door, "'nobody_serves', '{}', 'unknown'")
    await drained(door)
    (event,) = (await door.events.ListRefusedEvents(pb.ListRefusedEventsRequest())).events
    other = [("holdfast-tenant", "other")]
    assert not (await door.events.ListRefusedEvents(pb.ListRefusedEventsRequest(), metadata=other)).events
    with pytest.raises(grpc.aio.AioRpcError):
        await door.events.DiscardRefusedEvent(
            pb.DiscardRefusedEventRequest(event_id=event.event_id), metadata=other
        )


async def test_a_full_queue_keeps_its_tenants_events_and_nobody_elses(door: Invoker) -> None:
    await execute(door, "INSERT INTO tenant (tenant, max_queued, max_in_flight) VALUES ('full', 1, 1)")
    await enqueue(
        door, "'count', '{}', n::text, tenant => 'full', ordering_key => 'k') FROM generate_series(1, 9) n --"
    )
    await enqueue(door, "'count', '{}', 'light', tenant => 'light'")

    async def there() -> bool:
        return bool(await execute(door, "SELECT FROM run WHERE tenant = 'light'"))

    await until_async(there)
    await execute(door, "UPDATE tenant SET max_queued = 100 WHERE tenant = 'full'")
    await drained(door)
    rows = await execute(door, "SELECT idempotency_key FROM run WHERE tenant = 'full' ORDER BY seq")
    assert [row["idempotency_key"] for row in rows] == [str(n) for n in range(1, 10)]


async def test_a_crash_between_the_run_and_the_inbox_makes_no_second_run(
    door: Invoker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.ledger import inbox

    settle = inbox.settle
    failed: list[bool] = []

    async def dies(*given: Any) -> None:
        if not failed:
            failed.append(True)
            raise RuntimeError
        await settle(*given)

    monkeypatch.setattr(inbox, "settle", dies)
    await enqueue(door, "'count', '{}', 'once'")
    await drained(door)
    assert failed
    assert await keys(door) == ["once"]


async def test_two_invokers_share_the_inbox(door: Invoker) -> None:
    async with invoker(door.url) as other:
        assert isinstance(other.parts.inbox, Inbox)
        await enqueue(
            door, "'count', '{}', n::text, ordering_key => (n % 3)::text) FROM generate_series(1, 200) n --"
        )
        await drained(door)
    for lane in range(3):
        rows = await execute(
            door, "SELECT idempotency_key FROM run WHERE idempotency_key::int % 3 = $1 ORDER BY seq", lane
        )
        numbers = [int(row["idempotency_key"]) for row in rows]
        assert numbers == sorted(numbers)
    assert len(await keys(door)) == 200


async def test_what_breaks_its_group_breaks_nobody_else(door: Invoker) -> None:
    await poison(door)
    names = ["a", "b", "poison", "c", "d"]
    request = pb.PublishEventsRequest(
        events=[InvokeRequest(intent="count", idempotency_key=n) for n in names]
    )
    results = (await door.events.PublishEvents(request)).results
    assert [result.refusal.reason for result in results] == ["", "", "INTERNAL", "", ""]
    assert await keys(door) == ["a", "b", "c", "d"]


def aside(key: str, body: bytes = b"", **more: Any) -> pb.SetAsideEvent:
    event = InvokeRequest(intent=more.pop("intent", "later"), idempotency_key=key, **more)
    if not body:
        event.payload.update({"n": 1})
    refusal = pb.EventRefusal(code=5, reason="UNKNOWN_INTENT", message="nobody serves it")
    return pb.SetAsideEvent(event=event, body=body, refusal=refusal)


async def test_what_a_source_sets_aside_is_listed_once_and_sent_again_as_it_was(door: Invoker) -> None:
    whole = aside("a", ordering_key="k", labels={"x": "y"}, traceparent=TRACE)
    request = pb.SetAsideEventsRequest(source="hooks", events=[whole, aside("b", b'{"n": \xff\0')])
    for _ in range(2):
        await door.events.SetAsideEvents(request)
    first, second = (await door.events.ListRefusedEvents(pb.ListRefusedEventsRequest())).events
    assert (first.source, first.payload["n"], first.refusal.reason) == ("hooks", 1, "UNKNOWN_INTENT")
    assert (second.text, second.HasField("payload")) == ('{"n": \\xff\\x00', False)
    door.parts.intents.add(["later"])
    for one in (first, second):
        await door.events.RetryRefusedEvent(pb.RetryRefusedEventRequest(event_id=one.event_id))
    await drained(door)
    assert await keys(door) == ["a"]
    assert await trace(door) == TRACE
    (again,) = (await door.events.ListRefusedEvents(pb.ListRefusedEventsRequest())).events
    assert (again.source, again.idempotency_key, again.refusal.field) == ("hooks", "b", "payload")


async def test_what_could_not_be_mapped_makes_no_run_when_it_is_sent_again(door: Invoker) -> None:
    body = b'{"n": 1}'  # a JSON object, but none that its source could make a payload of
    await door.events.SetAsideEvents(
        pb.SetAsideEventsRequest(source="hooks", events=[aside("a", body, intent="count")])
    )
    (event,) = (await door.events.ListRefusedEvents(pb.ListRefusedEventsRequest())).events
    assert (event.text, event.HasField("payload")) == (body.decode(), False)
    await door.events.RetryRefusedEvent(pb.RetryRefusedEventRequest(event_id=event.event_id))
    await drained(door)
    assert await keys(door) == []
    (again,) = (await door.events.ListRefusedEvents(pb.ListRefusedEventsRequest())).events
    assert (again.text, again.refusal.field) == (body.decode(), "payload")


async def test_what_cannot_be_set_aside_is_refused_naming_each_field(door: Invoker) -> None:
    requests = {
        "source": pb.SetAsideEventsRequest(events=[aside("a")]),
        "events": pb.SetAsideEventsRequest(source="s"),
        "events[0].event.idempotency_key": pb.SetAsideEventsRequest(source="s", events=[aside("")]),
        "events[0].event.intent": pb.SetAsideEventsRequest(source="s", events=[aside("a", intent="a b")]),
    }
    for field, request in requests.items():
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await door.events.SetAsideEvents(request)
        assert field in str(refused.value.details())
    other = aside("a", caller=Caller(tenant="other"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await door.events.SetAsideEvents(pb.SetAsideEventsRequest(source="s", events=[other]))
    assert reason_of(refused.value) == "TENANT_MISMATCH"
