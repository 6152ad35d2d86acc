"""Messages of a real JetStream become runs, each once, whoever is killed; a bad one holds nobody up."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from holdfast.dev.process import ServiceProcess
from holdfast.edge.declaration import sources_of
from holdfast.edge.intake import Intake
from holdfast.edge.nats_source import NatsReader
from holdfast.edge.plain import parsed
from holdfast.edge.secret import Secrets
from holdfast.edge.settings import EdgeSettings
from holdfast.edge.source import NatsSource
from holdfast.invoker.envelope import read_envelope
from tests.invoker.stand import Invoker, poison
from tests.kit.until import until
from tests.support.nats_server import NatsServer, nats_server, needs_nats

pytestmark = needs_nats


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A server with a stream ORDERS."""
    async with nats_server(tmp_path) as one:
        await stream(one)
        yield one


async def stream(server: NatsServer) -> None:
    async with server.client() as client:
        await client.jetstream().add_stream(name="ORDERS", subjects=["orders.>"])


async def publish(server: NatsServer, *bodies: bytes, subject: str = "orders.new", **headers: str) -> None:
    async with server.client() as client:
        js = client.jetstream()
        for body in bodies:
            await js.publish(subject, body, headers=headers or None)


async def spoken(server: NatsServer, header: bytes, body: bytes) -> None:
    """Publish a message with a header that the client would not send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await reader.readline()
    head = b"NATS/1.0\r\n" + header + b"\r\n\r\n"
    sizes = f"{len(head)} {len(head) + len(body)}".encode()
    writer.write(b'CONNECT {"headers": true, "verbose": false}\r\nHPUB orders.new ' + sizes + b"\r\n")
    writer.write(head + body + b"\r\nPING\r\n")
    assert await reader.readline() == b"PONG\r\n"
    writer.close()


def bodies(first: int, count: int) -> list[bytes]:
    return [json.dumps({"n": n}).encode() for n in range(first, first + count)]


@asynccontextmanager
async def reading(door: Invoker, server: NatsServer, **declared: Any) -> AsyncIterator[NatsReader]:
    """Read the stream in this process."""
    table = {"servers": [server.url], "stream": "ORDERS", "intent": "hook", "ack_wait": 2} | declared
    (source,) = sources_of({"nats": {"orders": table}})
    assert isinstance(source, NatsSource)
    secrets = Secrets({"HOLDFAST_SECRET_NATS": "ada:pass"})
    told = EdgeSettings(invoker_address=door.address, accept_timeout=3.0)
    intake, stop = Intake(told, secrets), asyncio.Event()
    reader = NatsReader(source, intake, secrets)
    running = asyncio.create_task(reader.run(stop))
    try:
        yield reader
    finally:
        stop.set()
        await asyncio.wait_for(running, 20)
        await intake.close()


async def column(door: Invoker, query: str) -> list[Any]:
    async with door.parts.db.connection() as connection:
        return [row[0] for row in await connection.fetch(query)]


async def numbers(door: Invoker) -> list[int]:
    """Return what the runs are about, in their order."""
    ids = await column(door, "SELECT run_id FROM run ORDER BY seq")
    return [int((await door.run(str(one))).payload["n"]) for one in ids]


async def count(door: Invoker) -> int:
    (found,) = await column(door, "SELECT count(*) FROM run")
    return int(found)


async def unacknowledged(server: NatsServer) -> int:
    """Return how many messages the consumer has not done with."""
    async with server.client() as client:
        info = await client.jsm().consumer_info("ORDERS", "holdfast-orders")
        return int(info.num_pending or 0) + int(info.num_ack_pending or 0)


async def done_with(server: NatsServer) -> None:
    async def done() -> bool:
        return not await unacknowledged(server)

    await until(done, deadline=30)


async def test_messages_become_runs_in_order_and_are_acknowledged(door: Invoker, server: NatsServer) -> None:
    await publish(server, *bodies(0, 250))
    async with reading(door, server, batch=100):
        await until(lambda: _is(count(door), 250), deadline=30)
        await publish(server, *bodies(250, 5))
        await until(lambda: _is(count(door), 255), deadline=30)
        await done_with(server)
    assert await numbers(door) == list(range(255))
    keys = await column(door, "SELECT idempotency_key FROM run ORDER BY seq LIMIT 1")
    assert keys[0].startswith("orders/ORDERS@")


async def test_a_batch_is_one_call(
    door: Invoker, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    admit = door.parts.door.admit_all

    async def counted(given: Any) -> Any:
        sizes.append(len(given))
        return await admit(given)

    monkeypatch.setattr(door.parts.door, "admit_all", counted)
    await publish(server, *bodies(0, 100))
    async with reading(door, server, batch=100):
        await until(lambda: _is(count(door), 100), deadline=30)
    assert sum(sizes) == 100
    assert len(sizes) <= 10, "not one by one"


async def test_what_is_bad_is_set_aside_and_holds_nobody_up(door: Invoker, server: NatsServer) -> None:
    await publish(server, b"{bad", b"", b"[1]", *bodies(1, 1))
    async with reading(door, server):
        await until(lambda: _is(count(door), 1), deadline=30)
        await done_with(server)
    query = "SELECT concat_ws(' ', source, reason, payload) FROM run_inbox_refused ORDER BY seq"
    rows = await column(door, query)
    assert rows == [f'orders INVALID_FIELD "{text}"' for text in ("{bad", "(empty)", "[1]")]


async def test_a_message_too_large_for_a_call_is_set_aside_and_holds_nobody_up(
    door: Invoker, server: NatsServer
) -> None:
    numbers_alone = b'{"n": [' + b"1," * 400_000 + b"1]}"  # each takes eleven bytes of a Struct
    await publish(server, numbers_alone, *bodies(1, 1))
    async with reading(door, server):
        await until(lambda: _is(count(door), 1), deadline=30)
        await done_with(server)
    (row,) = await column(door, "SELECT reason || ' ' || field || ' ' || message FROM run_inbox_refused")
    assert row == "INVALID_FIELD body An event's payload is at most 1,048,576 bytes long as it is sent."


async def test_a_header_that_is_no_text_stops_nothing(door: Invoker, server: NatsServer) -> None:
    await spoken(server, b"X-Note: gr\xff\xc3\xbc", b'{"n": 1}')
    await publish(server, *bodies(2, 1))
    more = {"add": {"note": "header.x-note"}, "labels": {"note": "header.x-note"}}
    async with reading(door, server, **more):
        await until(lambda: _is(count(door), 2), deadline=30)
        await done_with(server)
    (first, _) = await column(door, "SELECT run_id FROM run ORDER BY seq")
    assert (await door.run(str(first))).payload["note"] == "gr\ufffdü"


async def test_a_nul_stops_nothing_wherever_it_is(door: Invoker, server: NatsServer) -> None:
    await publish(server, b'{"a\\u0000b": 1}', b'{"a": "\\u0000"}')
    await spoken(server, b"Nats-Msg-Id: m\x00-1", b'{"n": 1, "note": "in its id"}')
    await spoken(server, b"X-Note: a\x00b", b'{"n": 2, "note": "in what is added"}')
    await publish(server, *bodies(3, 1))
    more = {"add": {"header": "header.x-note"}, "labels": {"note": "header.x-note"}}
    async with reading(door, server, **more):
        await until(lambda: _is(count(door), 3), deadline=30)
        await done_with(server)
    assert await numbers(door) == [1, 2, 3]
    rows = await column(
        door, "SELECT message || (payload::json #>> '{}') FROM run_inbox_refused ORDER BY seq"
    )
    told = "The body has a NUL character."
    assert rows == [told + '{"a\\u0000b": 1}', told + '{"a": "\\u0000"}']
    (key,) = await column(door, "SELECT idempotency_key FROM run WHERE idempotency_key LIKE '%/m%'")
    assert key == "orders/m\ufffd-1"


async def test_a_message_that_breaks_its_reader_is_set_aside(
    door: Invoker, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(text: bytes) -> Any:
        if b"bad" in text:
            raise ZeroDivisionError
        return parsed(text)

    monkeypatch.setattr("holdfast.edge.nats_source.parsed", breaks)
    await publish(server, b'{"bad": 1}', *bodies(1, 1))
    async with reading(door, server):
        await until(lambda: _is(count(door), 1), deadline=30)
        await done_with(server)
    assert await column(door, "SELECT message FROM run_inbox_refused") == ["The message cannot be read."]


async def test_what_nobody_serves_is_set_aside_whole(door: Invoker, server: NatsServer) -> None:
    await publish(server, *bodies(1, 1), **{"Nats-Msg-Id": "m-1"})
    async with reading(door, server, intent="not.yet"):
        await until(lambda: _some(column(door, "SELECT 1 FROM run_inbox_refused")), deadline=30)
        await done_with(server)
    (row,) = await column(door, "SELECT idempotency_key || payload FROM run_inbox_refused")
    assert (row[: len("orders/m-1")], json.loads(row[len("orders/m-1") :])) == ("orders/m-1", {"n": 1})


async def test_a_full_queue_leaves_messages_where_they_are_until_there_is_room(
    door: Invoker, server: NatsServer
) -> None:
    async with door.parts.db.connection() as connection:
        await connection.execute("INSERT INTO tenant (tenant, max_queued) VALUES ('default', 3)")
    await publish(server, *bodies(0, 10))
    async with reading(door, server) as reader:
        await until(lambda: _is(count(door), 3), deadline=30)
        await reader.loop.signal.completed(2)
        assert await unacknowledged(server) == 7
        async with door.parts.db.connection() as connection:
            await connection.execute("UPDATE tenant SET max_queued = 100")
        await until(lambda: _is(count(door), 10), deadline=60)
        await done_with(server)
    assert sorted(await numbers(door)) == list(range(10))


async def test_what_the_invoker_fails_at_again_and_again_is_set_aside(
    door: Invoker, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.kit.errors import Internal

    admit = door.parts.door.admit_all
    tries: list[int] = []

    async def fails(given: Any) -> Any:
        bad = [index for index, one in enumerate(given) if one.ordering_key == "poison"]
        tries.extend(bad)
        good = iter(await admit([one for one in given if one.ordering_key != "poison"]))
        return [Internal("no") if index in bad else next(good) for index in range(len(given))]

    monkeypatch.setattr(door.parts.door, "admit_all", fails)
    await publish(server, b'{"n": 1, "k": "poison"}', b'{"n": 2, "k": "fine"}')
    async with reading(door, server, ordering_key="body.k", max_deliver=2):
        await until(lambda: _some(column(door, "SELECT 1 FROM run_inbox_refused")), deadline=60)
        await done_with(server)
    assert await numbers(door) == [2]
    assert len(tries) == 2
    (message,) = await column(door, "SELECT message FROM run_inbox_refused")
    assert message == "The Invoker failed at it 2 times."


async def test_what_breaks_a_group_is_set_aside_without_its_neighbours(
    door: Invoker, server: NatsServer
) -> None:
    await poison(door)
    await publish(server, *bodies(1, 3))
    await publish(server, b'{"n": 0}', **{"Nats-Msg-Id": "poison"})
    await publish(server, *bodies(4, 3))
    async with reading(door, server, max_deliver=2):
        await until(lambda: _some(column(door, "SELECT 1 FROM run_inbox_refused")), deadline=60)
        await done_with(server)
    assert sorted(await numbers(door)) == [1, 2, 3, 4, 5, 6]
    assert await column(door, "SELECT idempotency_key FROM run_inbox_refused") == ["orders/poison"]


async def test_a_call_that_fails_as_a_whole_is_the_fault_of_one(
    door: Invoker, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(request: Any, **more: Any) -> Any:
        if request.idempotency_key == "orders/poison":
            raise ZeroDivisionError
        return read_envelope(request, **more)

    monkeypatch.setattr("holdfast.invoker.event_servicer.read_envelope", breaks)
    await publish(server, *bodies(1, 3))
    await publish(server, b'{"n": 0}', **{"Nats-Msg-Id": "poison"})
    async with reading(door, server, max_deliver=2):
        await until(lambda: _some(column(door, "SELECT 1 FROM run_inbox_refused")), deadline=60)
        await done_with(server)
    assert sorted(await numbers(door)) == [1, 2, 3]
    assert await column(door, "SELECT idempotency_key FROM run_inbox_refused") == ["orders/poison"]


async def test_a_server_killed_and_started_again_loses_and_doubles_nothing(
    door: Invoker, server: NatsServer
) -> None:
    async with reading(door, server, batch=20):
        for life in range(3):
            await publish(server, *bodies(life * 100, 100))
            await server.kill()
            await server.start()
        await until(lambda: _is(count(door), 300), deadline=60)
        await done_with(server)
    assert sorted(await numbers(door)) == list(range(300))


async def requests_open(server: NatsServer) -> int:
    """Return how many requests for messages wait at the server."""
    async with server.client() as client:
        return int((await client.jsm().consumer_info("ORDERS", "holdfast-orders")).num_waiting or 0)


async def test_one_request_at_most_is_open_however_long_its_messages_take(
    door: Invoker, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    admit = door.parts.door.admit_all
    slow: list[int] = []

    async def slowly(given: Any) -> Any:
        if len(slow) < 3:
            slow.append(len(given))
            await asyncio.sleep(2.5)  # longer than a request waits at the server
        return await admit(given)

    async def there(wanted: int) -> bool:
        return await count(door) == wanted

    monkeypatch.setattr(door.parts.door, "admit_all", slowly)
    async with reading(door, server, ack_wait=10) as reader:
        for n in range(3):
            await publish(server, *bodies(n, 1))
            await until(partial(there, n + 1), deadline=30)
            await reader.loop.signal.completed(1)
        seen = [await requests_open(server) for _ in range(50)]
    assert max(seen) == 1


async def test_requests_are_not_kept_for_a_server_that_is_away(door: Invoker, server: NatsServer) -> None:
    async with reading(door, server) as reader:
        await publish(server, *bodies(0, 1))
        await until(lambda: _is(count(door), 1), deadline=30)
        await server.kill()
        await reader.loop.signal.completed(4, deadline=30)
        await server.start()
        await until(lambda: _is(requests_open(server), 1), deadline=30)
        seen = [await requests_open(server) for _ in range(20)]
    assert max(seen) <= 1


async def test_a_user_may_have_a_header_of_the_name_status(door: Invoker, server: NatsServer) -> None:
    await publish(server, b"", Status="408")
    await publish(server, b'{"n": 1}', Status="409", Description="Exceeded MaxWaiting")
    async with reading(door, server):
        await until(lambda: _is(count(door), 1), deadline=30)
        await done_with(server)
    assert await column(door, "SELECT payload FROM run_inbox_refused") == ['"(empty)"']


async def test_an_edge_killed_while_it_reads_loses_and_doubles_nothing(
    door: Invoker, server: NatsServer, tmp_path: Path
) -> None:
    file = tmp_path / "sources.toml"
    file.write_text(
        f'[nats.orders]\nservers = ["{server.url}"]\nstream = "ORDERS"\nintent = "hook"\n'
        "batch = 20\nack_wait = 1\n"
    )
    told = {
        **os.environ,
        "HOLDFAST_SOURCES_FILE": str(file),
        "HOLDFAST_INVOKER_ADDRESS": door.address,
    }
    await publish(server, *bodies(0, 300))
    edge = ServiceProcess("edge", "holdfast.edge", told, lambda *_: None, address="127.0.0.1:0")
    try:
        for point in ("before_take", "after_take:2", "before_take:2", "after_take"):
            edge.tell({"HOLDFAST_CRASH_AT": f"edge.{point}"})
            await edge.start()
            assert await asyncio.wait_for(edge.exited(), 30) == -9
            assert await count(door) < 300
        edge.tell({"HOLDFAST_CRASH_AT": None})
        await edge.start()
        await until(lambda: _is(count(door), 300), deadline=60)
        await done_with(server)
    finally:
        await edge.stop()
    assert sorted(await numbers(door)) == list(range(300))


async def test_two_readers_share_a_consumer(door: Invoker, server: NatsServer) -> None:
    async with reading(door, server, batch=10), reading(door, server, batch=10):
        await publish(server, *bodies(0, 200))
        await until(lambda: _is(count(door), 200), deadline=30)
        await done_with(server)
    assert sorted(await numbers(door)) == list(range(200))


async def test_a_cloud_event_is_known_by_its_own_id_and_what_is_declared_is_in_the_run(
    door: Invoker, server: NatsServer
) -> None:
    event = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "made", "data": {"n": 7}}
    structured = json.dumps(event).encode()
    await publish(server, structured, **{"content-type": "application/cloudevents+json"})
    binary = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "/shop", "ce-type": "made"}
    await publish(server, b'{"n": 7}', **binary)
    more = {"format": "cloudevents", "ordering_key": "subject", "labels": {"type": "event.type"}}
    async with reading(door, server, **more):
        await until(lambda: _is(count(door), 1), deadline=30)
        await done_with(server)
    rows = await column(door, "SELECT idempotency_key || ' ' || ordering_key FROM run")
    assert rows == ["orders//shop 7 orders.new"]


async def test_a_stream_made_anew_begins_with_new_keys(door: Invoker, server: NatsServer) -> None:
    await publish(server, *bodies(1, 1))
    async with reading(door, server):
        await until(lambda: _is(count(door), 1), deadline=30)
        async with server.client() as client:
            await client.jsm().delete_stream("ORDERS")
            await asyncio.sleep(1.1)  # streams are told apart by the second in which they were made
            await stream(server)
        await publish(server, *bodies(2, 1))
        await until(lambda: _is(count(door), 2), deadline=60)
    assert await numbers(door) == [1, 2]


async def test_credentials_are_shown_and_without_them_nothing_is_read(door: Invoker, tmp_path: Path) -> None:
    config = 'authorization: { user: "ada", password: "pass" }\n'
    async with nats_server(tmp_path, config) as server:
        async with server.client(user="ada", password="pass") as client:
            await client.jetstream().add_stream(name="ORDERS", subjects=["orders.>"])
            await client.jetstream().publish("orders.new", b'{"n": 1}')
        async with reading(door, server) as reader:
            await reader.loop.signal.completed(2, deadline=30)
            assert await count(door) == 0
        async with reading(door, server, credentials="nats"):
            await until(lambda: _is(count(door), 1), deadline=30)


async def _is(found: Any, wanted: int) -> bool:
    return bool(await found >= wanted)


async def _some(found: Any) -> bool:
    return bool(await found)
