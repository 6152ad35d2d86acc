"""A source is the operator's: callers name it and give values, and its rows become items, each once."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from holdfast.invoker.item_source import item_sources_of, read_item_sources
from holdfast.invoker.source_reader import CHUNK
from holdfast.kit.rpc.client import channel
from holdfast.kit.settings import SettingsError
from holdfast.v1 import batch_pb2, batch_service_pb2, batch_service_pb2_grpc
from tests.invoker.stand import Invoker, fields_of, invoker, of_tenant, reason_of
from tests.kit.until import until
from tests.support.item_source import CRM, declare, fill, read, tell
from tests.support.ledger import execute, fetch, open_ledger

pb: Any = batch_service_pb2
EMEA = {"source": "accounts", "parameters": {"region": "emea"}}


@pytest.fixture
async def crm(empty_database_url: str) -> str:
    await fill(empty_database_url)
    return empty_database_url


@pytest.fixture
async def door(database_url: str, crm: str, tmp_path: Path) -> AsyncIterator[Invoker]:
    async with invoker(database_url, queue_unknown_intents=True, **declare(tmp_path, crm)) as one:
        yield one


@pytest.fixture
async def batches(door: Invoker) -> AsyncIterator[Any]:
    async with channel(door.address) as opened:
        yield batch_service_pb2_grpc.BatchServiceStub(opened)


async def create(batches: Any, source: dict[str, Any], *more: dict[str, Any], **spec: Any) -> Any:
    first = {"spec": {"invocation": {"intent": "count"}, "source": source} | spec}
    metadata = of_tenant(spec.pop("tenant", "default")) if "tenant" in spec else None
    messages = [pb.CreateBatchRequest(**each) for each in (first, *more)]
    return (await batches.CreateBatch(iter(messages), metadata=metadata)).batch


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def seen(batches: Any, made: Any) -> Any:
    return (await batches.GetBatch(pb.GetBatchRequest(batch_id=made.batch_id))).batch


async def ready(batches: Any, made: Any, *, of: int) -> None:
    async def whole() -> bool:
        batch = await seen(batches, made)
        return bool(batch.status == batch_pb2.BATCH_STATUS_READY and batch.uploaded_items == of)

    await until(whole)


async def failed(batches: Any, made: Any, sentence: str) -> None:
    async def told() -> bool:
        return sentence in (await seen(batches, made)).source_error

    await until(told)


async def test_rows_become_items_in_order_of_their_key_and_touch_nothing(
    door: Invoker, batches: Any, crm: str
) -> None:
    await fill(crm, ("b", "Bolt"), ("a", "Ångström"), ("c", "Cog"))
    await tell(
        crm,
        "UPDATE account SET industry = 'metal', size = 12345678901234567890 WHERE id = 'a'",
        "INSERT INTO account (id, name, owner) VALUES ('x', 'theirs', 'acme')",
        "INSERT INTO account (id, name, region) VALUES ('y', 'elsewhere', 'apac')",
    )
    made = await create(batches, EMEA)
    assert (made.status, made.spec.source.source) == (batch_pb2.BATCH_STATUS_UPLOADING, "accounts")
    await ready(batches, made, of=3)
    items = (await batches.ListBatchItems(pb.ListBatchItemsRequest(batch_id=made.batch_id))).items
    assert [item.input.key for item in items] == ["a", "b", "c"]
    assert dict(items[0].input.payload) == {"id": "a", "name": "Ångström"}
    assert items[0].input.current.string_value == "metal"
    assert items[1].input.current.HasField("null_value")
    assert await fetch(door.parts.db, "SELECT FROM batch_source") == []


async def test_many_rows_are_read_chunk_by_chunk_by_several_invokers_each_once(
    database_url: str, door: Invoker, batches: Any, crm: str, tmp_path: Path
) -> None:
    many = CHUNK * 3 + 1
    await fill(crm, *((f"{n:06}", str(n)) for n in range(many)))
    async with (
        invoker(database_url, **declare(tmp_path, crm)),
        invoker(database_url, **declare(tmp_path, crm)),
    ):
        made = [await create(batches, EMEA) for _ in range(6)]
        for each in made:
            await ready(batches, each, of=many)
    rows = await fetch(
        door.parts.db,
        "SELECT count(*), count(DISTINCT key), max(key) FROM batch_input GROUP BY batch_id",
    )
    assert [tuple(row) for row in rows] == [(many, many, f"{many - 1:06}")] * 6


async def test_a_turn_that_was_lost_stores_nothing_and_the_next_goes_on_behind_what_is_stored(
    door: Invoker, batches: Any, crm: str
) -> None:
    await fill(crm, *((f"{n:06}", str(n)) for n in range(CHUNK * 2)))
    await tell(crm, "ALTER TABLE account RENAME TO away")
    made = await create(batches, EMEA)
    await failed(batches, made, "UndefinedTableError")
    assert "account" not in (await seen(batches, made)).source_error, "nothing of the database is told"
    await tell(crm, "ALTER TABLE away RENAME TO account")
    await execute(door.parts.db, "UPDATE batch_source SET look_time = now()")
    await ready(batches, made, of=CHUNK * 2)
    assert (await seen(batches, made)).source_error == ""


async def test_what_cannot_be_an_item_holds_the_batch_and_says_why(
    door: Invoker, batches: Any, crm: str
) -> None:
    await fill(crm, *((f"{n:06}", "") for n in range(CHUNK)), ("zz", "first"), ("zz", "second"))
    made = await create(batches, EMEA)
    await failed(batches, made, "Two rows have the key 'zz'.")
    assert (await seen(batches, made)).uploaded_items <= CHUNK + 1
    for change, sentence in (
        ("UPDATE account SET id = NULL WHERE name = 'second'", "A row has no 'id', which is to be its key."),
        ("UPDATE account SET id = repeat('z', 300) WHERE name = 'second'", "must be at most 255 bytes"),
        (
            "UPDATE account SET id = 'zzz', name = repeat('n', 2000000) WHERE name = 'second'",
            "1,048,576 bytes",
        ),
    ):
        await tell(crm, change)
        await execute(door.parts.db, "UPDATE batch_source SET look_time = now()")
        await failed(batches, made, sentence)
    await tell(crm, "UPDATE account SET name = '' WHERE id = 'zzz'")
    await execute(door.parts.db, "UPDATE batch_source SET look_time = now()")
    await ready(batches, made, of=CHUNK + 2)


async def test_more_rows_than_the_operator_allows_are_not_taken(batches: Any, crm: str) -> None:
    await fill(crm)
    await tell(crm, "INSERT INTO account (id) SELECT n FROM generate_series(10000, 15000) n")
    made = await create(batches, EMEA)
    await failed(batches, made, "more than 5,000 rows")


async def test_a_source_never_writes_and_never_hangs(door: Invoker, batches: Any, crm: str) -> None:
    await fill(crm, ("a", "Ada"))
    writing = await create(batches, {"source": "writing"})
    slow = await create(batches, {"source": "slow"})
    await failed(batches, writing, "ReadOnlySQLTransactionError")
    await failed(batches, slow, "QueryCanceledError")
    nowhere = await create(batches, {"source": "nowhere"})
    await failed(batches, nowhere, "has not given the URL")
    assert (await read(crm, "SELECT name FROM account"))[0]["name"] == "Ada"
    for each in (writing, slow, nowhere):
        await batches.CancelBatch(pb.CancelBatchRequest(batch_id=each.batch_id))
        assert (await seen(batches, each)).source_error == ""
    assert await fetch(door.parts.db, "SELECT FROM batch_source") == []


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        ({}, ["spec.source.source"]),
        ({"source": "nobody's"}, ["spec.source.source"]),
        ({"source": "accounts"}, ["spec.source.parameters.region"]),
        ({"source": "accounts", "parameters": {"region": "a\0b"}}, ["spec.source.parameters.region"]),
        (
            {"source": "accounts", "parameters": {"region": "x", "tenant": "acme"}},
            ["spec.source.parameters.tenant"],
        ),
        (
            {"source": "due", "parameters": {"least": "1; DROP TABLE account", "scheduled_time": "now"}},
            ["spec.source.parameters.least", "spec.source.parameters.scheduled_time"],
        ),
        (
            {"source": "due", "parameters": {"least": "9223372036854775808", "scheduled_time": "2026-01-01"}},
            ["spec.source.parameters.least", "spec.source.parameters.scheduled_time"],
        ),
    ],
)
async def test_what_was_not_declared_is_named(batches: Any, source: Any, fields: list[str]) -> None:
    error = await refusal(create(batches, source))
    assert (error.code(), fields_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, fields)
    assert not (await batches.ListBatches(pb.ListBatchesRequest())).batches


async def test_a_value_is_bound_and_never_a_part_of_the_statement(batches: Any, crm: str) -> None:
    await fill(crm, ("a", "Ada"))
    made = await create(batches, {"source": "accounts", "parameters": {"region": "x' OR 'a' = 'a"}})
    await ready(batches, made, of=0)


async def test_a_source_is_its_tenants_alone(batches: Any) -> None:
    due = {"source": "due", "parameters": {"least": "1", "scheduled_time": "2026-01-01T00:00Z"}}
    error = await refusal(
        batches.CreateBatch(
            iter([pb.CreateBatchRequest(spec={"invocation": {"intent": "count"}, "source": due})]),
            metadata=of_tenant("acme"),
        )
    )
    assert fields_of(error) == ["spec.source.source"]


async def test_nothing_is_sent_for_a_batch_whose_items_come_from_a_source(batches: Any, crm: str) -> None:
    await fill(crm, ("a", "Ada"))
    for more in ({"chunk": {"offset": 0, "items": [{"key": "mine"}]}}, {"complete_count": 0}):
        error = await refusal(create(batches, EMEA, more))
        assert reason_of(error) == "STREAM_PROTOCOL"


async def test_a_batch_without_a_row_is_over_and_one_with_some_runs(batches: Any, crm: str) -> None:
    empty = await create(batches, EMEA, start_when_uploaded=True)

    async def over() -> bool:
        return bool((await seen(batches, empty)).status == batch_pb2.BATCH_STATUS_COMPLETED)

    await until(over)
    await fill(crm, ("a", "Ada"))
    some = await create(batches, EMEA, start_when_uploaded=True)

    async def running() -> bool:
        return bool((await seen(batches, some)).status == batch_pb2.BATCH_STATUS_RUNNING)

    await until(running)


async def test_an_invoker_keeps_its_turn_while_it_waits_and_gives_it_back_when_it_stops(
    database_url: str, crm: str, tmp_path: Path
) -> None:
    patient = CRM.replace("timeout = 1\n", "timeout = 60\n")
    await fill(crm, ("a", "Ada"))
    told = declare(tmp_path, crm, patient)
    async with (
        invoker(database_url, queue_unknown_intents=True, **told) as one,
        channel(one.address) as opened,
    ):
        await create(batch_service_pb2_grpc.BatchServiceStub(opened), {"source": "slow"})
        await until(lambda: bool(one.parts.reader._turns))
        db = one.parts.db
        await execute(db, "UPDATE batch_source SET look_time = now() + interval '1 s'")
        await one.parts.reader.hold()
        (row,) = await fetch(db, "SELECT look_time > now() + interval '5 s' AS kept FROM batch_source")
        assert row["kept"]
    async with open_ledger(database_url) as db:
        (row,) = await fetch(db, "SELECT turn, failures, look_time <= now() FROM batch_source")
    assert tuple(row) == (None, 0, True)


GOOD: dict[str, Any] = {"database": "crm", "query": "SELECT id FROM account", "key": "id"}


def test_a_declaration_may_be_as_short_as_it_is_clear() -> None:
    query = "SELECT id FROM a WHERE b = $b AND c = $tenant OR d = $b; "
    (source,) = item_sources_of({"a": GOOD | {"query": query, "parameters": {"b": "uuid"}}}).values()
    first, second = "($1::text::uuid)", "($2::text::text)"
    assert source.text == f"SELECT id FROM a WHERE b = {first} AND c = {second} OR d = {first}"
    assert source.order == ("b", "tenant")
    assert (source.tenants, source.timeout, source.max_items) == (("default",), 30.0, 1_000_000)
    assert read_item_sources(None) == {}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"database": None}, "database must be given"),
        ({"database": "postgresql://me:secret@db/crm"}, "never the secret itself"),
        ({"query": None}, "query must be given"),
        ({"query": "SELECT id FROM a WHERE b = $b"}, r"uses \$b, which is not among its parameters"),
        ({"key": ""}, "key must be the name of a column"),
        ({"parameters": {"b": "text"}}, "'b', which its query does not use"),
        ({"parameters": {"b": "money"}}, "must be a table whose values are of text, bigint"),
        (
            {"query": "SELECT id FROM a WHERE b = $tenant", "parameters": {"tenant": "text"}},
            "must not have 'tenant'",
        ),
        ({"tenants": []}, "tenants must be a list"),
        ({"timeout": 0}, "timeout must be a number"),
        ({"max_items": 1.5}, "max_items must be a number"),
        ({"quary": "SELECT 1"}, "quary is no field"),
    ],
)
def test_what_cannot_be_meant_of_a_source_is_refused(changed: dict[str, Any], sentence: str) -> None:
    table = {name: value for name, value in (GOOD | changed).items() if value is not None}
    with pytest.raises(SettingsError, match=rf"^\[a\] .*{sentence}.*\.$"):
        item_sources_of({"a": table})
    with pytest.raises(SettingsError, match="is no table with a name"):
        item_sources_of({"a": 1})
