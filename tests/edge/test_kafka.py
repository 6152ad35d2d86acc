"""Messages of a real Kafka become runs, each once, in order, whoever is killed; a bad one holds nobody up."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.dev.process import ServiceProcess
from holdfast.edge.kafka_source import KafkaReader
from tests.edge.topic_reading import bodies, column, committed, numbers, payloads, reading, runs, set_aside
from tests.invoker.stand import Invoker
from tests.kit.until import until
from tests.support.kafka_server import KafkaServer, Topic, kafka_server, needs_kafka

pytestmark = [needs_kafka, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    with kafka_server(tmp_path_factory.mktemp("kafka")) as one:
        yield one


@pytest.fixture
async def orders(server: KafkaServer) -> Topic:
    """A topic of four partitions."""
    return await server.make(4)


async def test_messages_become_runs_in_the_order_of_their_partition_and_are_committed(
    door: Invoker, orders: Topic
) -> None:
    for partition in range(4):
        await orders.write(*bodies(0, 60, p=partition), partition=partition)
    async with reading(door, orders, batch=50):
        await runs(door, 240)
        await orders.write(*bodies(60, 5, p=2), partition=2)
        await runs(door, 245)
        await committed(orders, 245)
    found = await payloads(door)
    for partition in range(4):
        told = [int(one["n"]) for one in found if one["p"] == partition]
        assert told == list(range(65 if partition == 2 else 60))
    assert await orders.committed() == {0: 60, 1: 60, 2: 65, 3: 60}
    keys = await column(door, "SELECT idempotency_key FROM run")
    assert len(set(keys)) == 245
    assert all(key.startswith(f"orders/{orders.name}/") and "@" in key for key in keys)


async def test_what_is_bad_is_set_aside_and_holds_nobody_up(door: Invoker, orders: Topic) -> None:
    bad = [b"{bad", None, b"\x00\x01avro\xff", b'{"s": "' + b"x" * 1_200_000 + b'"}']
    await orders.write(*bad, *bodies(1, 1), partition=0, key=b"k", max_request_size=4_000_000)
    async with reading(door, orders):
        await runs(door, 1)
        await committed(orders, 5)
    query = "SELECT concat_ws(' ', source, payload::json #>> '{}') FROM run_inbox_refused ORDER BY seq"
    rows = await column(door, query)
    assert rows[:2] == ["orders {bad", "orders (empty)"]
    assert len(rows) == 4
    assert await numbers(door) == [1]


async def test_nothing_is_committed_before_it_is_durable(
    door: Invoker, orders: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, reached = asyncio.Event(), asyncio.Event()
    admit = door.parts.door.admit_all

    async def slow(given: Any) -> Any:
        reached.set()
        await held.wait()
        return await admit(given)

    monkeypatch.setattr(door.parts.door, "admit_all", slow)
    await orders.write(*bodies(0, 3), partition=0)
    async with reading(door, orders):
        await asyncio.wait_for(reached.wait(), 60)
        assert (await orders.committed()).get(0, 0) == 0
        held.set()
        await committed(orders, 3)
    assert await numbers(door) == [0, 1, 2]


async def test_a_full_queue_pauses_the_partition_and_loses_neither_messages_nor_order(
    door: Invoker, orders: Topic
) -> None:
    async with door.parts.db.connection() as connection:
        await connection.execute("INSERT INTO tenant (tenant, max_queued) VALUES ('default', 3)")
    await orders.write(*bodies(0, 10), partition=0, key=b"ada")
    async with reading(door, orders, ordering_key="key") as reader:
        await runs(door, 3)
        await reader.loop.signal.completed(3, deadline=60)
        assert (await orders.committed())[0] == 3
        async with door.parts.db.connection() as connection:
            await connection.execute("UPDATE tenant SET max_queued = 100")
        await committed(orders, 10)
    assert await numbers(door) == list(range(10))
    assert set(await column(door, "SELECT ordering_key FROM run")) == {"ada"}


async def test_what_the_invoker_fails_at_again_and_again_is_set_aside(
    door: Invoker, orders: Topic, monkeypatch: pytest.MonkeyPatch
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
    await orders.write(b'{"n": 1, "k": "poison"}', b'{"n": 2, "k": "fine"}', partition=0)
    async with reading(door, orders, ordering_key="body.k", max_deliver=2):
        await set_aside(door)
        await committed(orders, 2)
    assert await numbers(door) == [2]
    assert len(tries) == 2
    (message,) = await column(door, "SELECT message FROM run_inbox_refused")
    assert message == "The Invoker failed at it 2 times."


async def test_a_broker_killed_and_started_again_loses_and_doubles_nothing(
    door: Invoker, orders: Topic
) -> None:
    async with reading(door, orders, batch=20):
        for life in range(3):
            await orders.write(*bodies(life * 100, 100), partition=life)
            await asyncio.to_thread(orders.server.kill)
            await asyncio.to_thread(orders.server.start)
        await runs(door, 300, deadline=120)
        await committed(orders, 300)
    assert sorted(await numbers(door)) == list(range(300))


async def test_a_broker_that_does_not_answer_is_sought_again_and_read_once_it_does(
    door: Invoker,
    orders: Topic,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("holdfast.edge.kafka_group._DEAF_S", 2.0)
    said: list[str] = []

    def is_missed() -> bool:
        said.append(capsys.readouterr().err)
        return "Kafka does not answer." in "".join(said)

    async with reading(door, orders):
        await orders.write(*bodies(0, 1), partition=0)
        await runs(door, 1)
        orders.server.stop(still=True)
        try:
            await until(is_missed, deadline=60)
        finally:
            orders.server.stop(still=False)
        await orders.write(*bodies(1, 1), partition=0)
        await runs(door, 2)
    assert await numbers(door) == [0, 1]


async def test_an_edge_killed_while_it_reads_loses_and_doubles_nothing(
    door: Invoker, orders: Topic, tmp_path: Path
) -> None:
    file = tmp_path / "sources.toml"
    file.write_text(
        f'[kafka.orders]\nservers = ["{orders.server.address}"]\ntopic = "{orders.name}"\nintent = "hook"\n'
        f'group = "{orders.group}"\nbatch = 20\nsession_timeout = 6\n'
    )
    told = {
        **os.environ,
        "HOLDFAST_SOURCES_FILE": str(file),
        "HOLDFAST_INVOKER_ADDRESS": door.address,
    }
    await orders.write(*bodies(0, 150), partition=0)
    await orders.write(*bodies(150, 150), partition=1)
    edge = ServiceProcess("edge", "holdfast.edge", told, lambda *_: None, address="127.0.0.1:0")
    try:
        for point in ("before_take", "after_take:2", "after_take"):
            edge.tell({"HOLDFAST_CRASH_AT": f"edge.{point}"})
            await edge.start()
            assert await asyncio.wait_for(edge.exited(), 60) == -9
            assert len(await column(door, "SELECT 1 FROM run")) < 300
        edge.tell({"HOLDFAST_CRASH_AT": None})
        await edge.start()
        await runs(door, 300)
        await committed(orders, 300)
    finally:
        await edge.stop()
    assert edge.returncode == 0, "and it stops in order"
    assert sorted(await numbers(door)) == list(range(300))
    assert await orders.committed() == {0: 150, 1: 150, 2: 0, 3: 0}


async def test_edges_share_the_partitions_and_those_of_one_that_goes_are_read_by_the_other(
    door: Invoker, orders: Topic
) -> None:
    async def write(first: int) -> None:
        for partition in range(4):
            await orders.write(*bodies(first + partition * 25, 25, p=partition), partition=partition)

    await write(0)
    async with reading(door, orders, batch=7, ordering_key="partition") as one:
        await runs(door, 20)
        async with reading(door, orders, batch=7, ordering_key="partition") as other:
            await write(100)
            await runs(door, 200)

            def both_have_some() -> bool:
                return all(len(_partitions(reader)) == 2 for reader in (one, other))

            await until(both_have_some, deadline=60)
            await write(200)
            await runs(door, 300)
        await write(300)
        await runs(door, 400)
        await committed(orders, 400)
    found = await payloads(door)
    assert sorted(int(one["n"]) for one in found) == list(range(400)), "none lost, none twice"
    for partition in range(4):
        told = [int(one["n"]) for one in found if one["p"] == partition]
        assert told == sorted(told), "in the order of the partition"


def _partitions(reader: KafkaReader) -> set[Any]:
    return set(reader._held._consumer.assignment()) if reader._held is not None else set()


async def test_a_partition_taken_away_is_committed_first_by_whom_it_is_taken_from(
    door: Invoker, orders: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    admit, sizes = door.parts.door.admit_all, []
    held, reached = asyncio.Event(), asyncio.Event()

    async def slow(given: Any) -> Any:
        sizes.append(len(given))
        reached.set()
        await held.wait()
        return await admit(given)

    monkeypatch.setattr(door.parts.door, "admit_all", slow)
    for partition in range(4):
        await orders.write(*bodies(partition * 10, 10), partition=partition)
    async with reading(door, orders) as one:
        await asyncio.wait_for(reached.wait(), 60)
        async with reading(door, orders) as other:

            def asked_to_leave() -> bool:
                return one._held is not None and one._held.is_leaving

            await until(asked_to_leave, deadline=60)
            assert not _partitions(other), "not before the batch in hand is done with"
            held.set()
            await committed(orders, 40)
    assert sum(sizes) == 40, "and nobody reads it a second time"
    assert sorted(await numbers(door)) == list(range(40))


async def test_a_cloud_event_is_one_run_binary_or_structured(door: Invoker, orders: Topic) -> None:
    event = {"specversion": "1.0", "id": "7%41", "source": "/shop", "type": "gemacht", "data": {"n": 7}}
    structured = json.dumps(event).encode()
    told = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
    await orders.write(structured, partition=0, headers=told)
    binary = {"specversion": "1.0", "id": "7%41", "source": "/shop", "type": "gemacht"}
    headers = [(f"ce_{name}", value.encode()) for name, value in binary.items()]
    headers.append(("content-type", b"application/json"))
    await orders.write(b'{"n": 7}', partition=0, headers=headers)
    batch = [("content-type", b"application/cloudevents-batch+json")]
    await orders.write(b"[" + structured + b"," + structured + b"]", partition=0, headers=batch)
    more: dict[str, Any] = {"format": "cloudevents", "labels": {"type": "event.type"}}
    async with reading(door, orders, ordering_key="subject", **more):
        await committed(orders, 3)
    rows = await column(door, "SELECT idempotency_key || ' ' || ordering_key FROM run")
    assert rows == [f"orders//shop 7%41 {orders.name}"]
    assert await column(door, "SELECT message FROM run_inbox_refused") == ["A message is one event."]


async def test_keys_headers_and_partitions_are_places(door: Invoker, orders: Topic) -> None:
    told = [("Id", b"a-1"), ("note", b"gr\xc3\xbcn \xff")]
    await orders.write(*bodies(1, 1), *bodies(1, 1), partition=3, key=b"\0\0k\xff", headers=told)
    more: dict[str, Any] = {
        "key": "header.id",
        "ordering_key": "partition",
        "labels": {"key": "key", "topic": "subject"},
        "add": {"note": "header.note"},
    }
    async with reading(door, orders, **more):
        await committed(orders, 2)
    rows = await column(door, "SELECT concat_ws(' ', idempotency_key, ordering_key, labels::jsonb) FROM run")
    labels = {"key": "\\x00\\x00k\\xff", "topic": orders.name}
    assert [row.split(" ", 2)[:2] for row in rows] == [["orders/a-1", f"{orders.name}/3"]]
    assert json.loads(rows[0].split(" ", 2)[2]) == labels
    assert (await payloads(door))[0] == {"n": 1, "note": "grün \\xff"}


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_messages_are_read(door: Invoker, orders: Topic, codec: str) -> None:
    await orders.write(*bodies(0, 20), partition=0, compression_type=codec)
    async with reading(door, orders):
        await runs(door, 20)
    assert await numbers(door) == list(range(20))


async def test_what_a_transaction_took_back_is_no_run(door: Invoker, orders: Topic) -> None:
    async with orders.server.producer(transactional_id="t") as producer:
        for n in range(4):
            await producer.begin_transaction()
            await producer.send_and_wait(orders.name, bodies(n, 1)[0], partition=0)
            await (producer.abort_transaction() if n % 2 else producer.commit_transaction())
    await orders.write(*bodies(4, 1), partition=0)
    async with reading(door, orders):
        await runs(door, 3)
        await committed(orders, 9)
    assert await numbers(door) == [0, 2, 4]


async def test_only_new_messages_are_read_where_that_is_declared(door: Invoker, orders: Topic) -> None:
    await orders.write(*bodies(0, 5), partition=0)
    async with reading(door, orders, deliver="new"):
        await committed(orders, 5)
        await orders.write(*bodies(5, 1), partition=0)
        await runs(door, 1)
        await committed(orders, 6)
    await orders.write(*bodies(6, 1), partition=0)
    async with reading(door, orders, deliver="new"):
        await runs(door, 2)
    assert await numbers(door) == [5, 6], "also what came while nobody read"


async def test_a_topic_that_is_missing_is_waited_for_and_not_made(door: Invoker, server: KafkaServer) -> None:
    later = Topic(server, "later")
    async with reading(door, later) as reader:
        await reader.loop.signal.completed(2, deadline=60)
        async with server.admin() as admin:
            assert "later" not in await admin.list_topics()
        await server.make(1, "later")
        await later.write(*bodies(1, 1))
        await runs(door, 1)


async def test_a_topic_made_anew_begins_with_new_keys(door: Invoker, orders: Topic) -> None:
    await orders.write(*bodies(0, 3), partition=0)
    async with reading(door, orders):
        await runs(door, 3)
        async with orders.server.admin() as admin:
            await admin.delete_topics([orders.name])
            await until(lambda: _lacks(admin, orders.name), deadline=60)
        await orders.server.make(4, orders.name)
        await orders.write(*bodies(3, 2), partition=0)
        await runs(door, 5, deadline=120)
    assert await numbers(door) == [0, 1, 2, 3, 4]


async def _lacks(admin: Any, topic: str) -> bool:
    return topic not in await admin.list_topics()
