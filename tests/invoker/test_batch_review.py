"""Reviews, applying and rolling back over gRPC: what is malformed is named, what is asked is done."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from holdfast.kit.rpc.client import channel, streaming
from holdfast.ledger.batch_view import BatchView
from holdfast.v1 import batch_pb2, batch_service_pb2, batch_service_pb2_grpc
from tests.invoker.stand import Invoker, facts_of, fields_of, invoker, reason_of
from tests.kit.until import until
from tests.support.batch import seen
from tests.support.batch_apply import Dispatcher, in_review
from tests.support.ledger import execute
from tests.support.outbox import make_destination, open_session

pb: Any = batch_service_pb2
ANN = [("holdfast-user", "ann"), ("holdfast-tenant", "acme")]
ACCEPT, REJECT = batch_pb2.REVIEW_VERDICT_ACCEPT, batch_pb2.REVIEW_VERDICT_REJECT
CRM = {"effect": {"destination": "crm", "undo_destination": "crm-undo"}}


class Stand:
    """A batch of ten in review, and the service in front of it."""

    def __init__(self, stub: Any, which: BatchView, dispatcher: Dispatcher) -> None:
        self.stub, self.which, self.dispatcher = stub, which, dispatcher
        self.batch_id = str(which.batch_id)

    async def call(self, verb: str, **request: Any) -> Any:
        message = getattr(pb, f"{verb}Request")(batch_id=self.batch_id, **request)
        return await getattr(self.stub, verb)(message, metadata=ANN)

    async def refused(self, verb: str, **request: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(verb, **request)
        return caught.value

    async def stands_at(self, status: str) -> None:
        async def there() -> bool:
            return (await seen(self.dispatcher.db, self.which)).status.name == status

        await until(there)


@pytest.fixture
async def stand(door: Invoker) -> AsyncIterator[Stand]:
    async with stood(door) as stand:
        yield stand


@asynccontextmanager
async def stood(door: Invoker) -> AsyncIterator[Stand]:
    db = door.parts.db
    for name in ("crm", "crm-undo"):
        await make_destination(db, name, tenant="acme", max_concurrent=1000)
    which = await in_review(db, 10)
    await execute(
        db,
        'UPDATE batch_input SET current = \'{"industry":"none"}\' WHERE batch_id = $1',
        which.batch_id,
    )
    async with channel(door.address) as opened:
        stub = batch_service_pb2_grpc.BatchServiceStub(opened)
        yield Stand(stub, which, Dispatcher(db, await open_session(db)))


@pytest.mark.parametrize(
    ("verb", "request_", "fields"),
    [
        ("SampleBatch", {"size": 1001}, ["size"]),
        ("SampleBatch", {"strata": {"confidence_bounds": [0.9, 0.5]}}, ["strata.confidence_bounds"]),
        ("SampleBatch", {"strata": {"token_bounds": [1, 1]}}, ["strata.token_bounds"]),
        ("SampleBatch", {"strata": {"cost_bounds_micros": [1]}}, ["strata.cost_bounds_micros"]),
        (
            "SampleBatch",
            {"strata": {"cost_bounds_micros": [1], "token_bounds": [1]}},
            ["strata.cost_bounds_micros"] * 2,
        ),
        ("ReviewItems", {"reviews": [{"index": 1}]}, ["reviews[0].verdict"]),
        ("ReviewItems", {"reviews": [{"index": 1, "verdict": REJECT}]}, ["reviews[0].reason"]),
        (
            "ReviewItems",
            {
                "reviews": [
                    {
                        "index": 1,
                        "verdict": REJECT,
                        "reason": "no",
                        "edited_output": {"string_value": "x"},
                    }
                ]
            },
            ["reviews[0].edited_output"],
        ),
        (
            "ReviewItems",
            {"reviews": [{"index": 1, "verdict": ACCEPT}, {"index": 1, "verdict": ACCEPT}]},
            ["reviews[1].index"],
        ),
        ("ReviewItems", {"reviews": [{"index": 10, "verdict": ACCEPT}]}, ["reviews[0].index"]),
        ("ReviewItems", {"rest": REJECT}, ["rest_reason"]),
        ("ReviewItems", {"rest_reason": "why"}, ["rest_reason"]),
        ("ApplyBatch", {}, ["target"]),
        ("ApplyBatch", {"items_per_second": -1.0, "target": CRM}, ["items_per_second"]),
        ("ApplyBatch", {"target": {"effect": {}}}, ["target.effect.destination"]),
        ("RollbackBatch", {}, ["reason"]),
        ("RollbackBatch", {"reason": "x", "filter": {"changed": True}}, ["filter"]),
    ],
)
async def test_what_is_malformed_is_named(
    stand: Stand, verb: str, request_: dict[str, Any], fields: list[str]
) -> None:
    error = await stand.refused(verb, **request_)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields_of(error) == fields


async def test_a_policy_cannot_apply_what_has_no_target(stand: Stand) -> None:
    policy = {"min_accepted_share": 0.9, "apply_when_met": True}
    assert fields_of(await stand.refused("UpdateBatch", review=policy)) == ["review.apply_when_met"]
    target = batch_pb2.ApplyTarget(effect=batch_pb2.ApplyEffect(destination="crm")).SerializeToString()
    known = "UPDATE batch SET apply_target = $2 WHERE batch_id = $1"
    await execute(stand.dispatcher.db, known, stand.which.batch_id, target)
    assert (await stand.call("UpdateBatch", review=policy)).batch.spec.review.apply_when_met


async def test_what_cannot_be_where_the_batch_stands_says_so(stand: Stand) -> None:
    error = await stand.refused("RollbackBatch", reason="wrong")
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "BATCH_NOT_READY")
    assert facts_of(error)["status"] == "IN_REVIEW"
    error = await stand.refused("ApplyBatch", target={"effect": {"destination": "nowhere"}})
    assert reason_of(error) == "DESTINATION_NOT_FOUND"
    unnamed = pb.ReviewItemsRequest(batch_id=stand.batch_id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stand.stub.ReviewItems(unnamed, metadata=[("holdfast-tenant", "acme")])
    assert fields_of(caught.value) == ["metadata.holdfast-user"], "a review is somebody's"


async def test_a_batch_is_sampled_reviewed_applied_and_rolled_back(stand: Stand) -> None:
    strata = {"by_label": True, "equal": True}
    drawn = await stand.call("SampleBatch", size=3, seed=7, strata=strata)
    assert {(s.label, s.population, len(s.items)) for s in drawn.strata} == {
        ("retail", 7, 1),
        ("health", 2, 1),
        ("mining", 1, 1),
    }
    assert await stand.call("SampleBatch", size=3, seed=7, strata=strata) == drawn
    first = drawn.strata[0].items[0]
    edited = {"struct_value": {"industry": "food"}}
    said = await stand.call(
        "ReviewItems",
        reviews=[
            {"index": first.index, "verdict": ACCEPT, "edited_output": edited},
            {"index": drawn.strata[2].items[0].index, "verdict": REJECT, "reason": "not mining"},
        ],
        rest=ACCEPT,
    )
    assert (said.judged, said.accepted, said.policy_met) == (2, 1, False)
    assert {c.status: c.count for c in said.progress.counts} == {
        batch_pb2.BATCH_ITEM_STATUS_ACCEPTED: 9,
        batch_pb2.BATCH_ITEM_STATUS_REJECTED: 1,
    }
    assert (await stand.call("ApplyBatch", target=CRM, dry_run=True)).item_count == 9
    begun = await stand.call("ApplyBatch", target=CRM)
    assert (begun.batch.status, begun.item_count) == (batch_pb2.BATCH_STATUS_APPLYING, 9)
    assert begun.batch.spec.apply.effect.destination == "crm"

    async def sent() -> bool:
        await stand.dispatcher.send()
        return (await seen(stand.dispatcher.db, stand.which)).status.name == "APPLIED"

    await until(sent)
    items = {each.index: each for each in (await stand.call("ListBatchItems")).items}
    one = items[first.index]
    assert one.review.reviewer == "ann"
    assert str(uuid.UUID(one.effect_id)) == one.effect_id
    assert {(c.path, c.before.string_value, c.after.string_value) for c in one.changes} >= {
        ("industry", "none", "food")
    }
    parts = [
        part
        async for part in stand.stub.ExportBatch(
            pb.ExportBatchRequest(batch_id=stand.batch_id, format=pb.EXPORT_FORMAT_CSV), metadata=ANN
        )
    ]
    lines = b"".join(part.data for part in parts).decode().splitlines()
    assert lines[0] == "key,status,label,confidence,review,industry,sure"
    assert lines[1 + first.index].split(",")[4:6] == ["accept", "food"]
    back = await stand.call("RollbackBatch", reason="wrong", filter={"label": "health"})
    assert back.item_count == 2

    async def undone() -> bool:
        await stand.dispatcher.send()
        return (await seen(stand.dispatcher.db, stand.which)).status.name == "ROLLED_BACK"

    await until(undone)
    counts = (await stand.call("GetBatch")).progress.counts
    assert {batch_pb2.BatchItemStatus.Name(c.status)[18:]: c.count for c in counts} == {
        "REJECTED": 1,
        "APPLIED": 7,
        "ROLLED_BACK": 2,
    }


async def test_a_policy_changed_while_in_review_counts_what_was_judged(stand: Stand) -> None:
    await stand.call("ReviewItems", reviews=[{"index": n, "verdict": ACCEPT} for n in range(3)])
    policy = {"min_accepted_share": 0.9, "min_judged": 3}
    updated = await stand.call("UpdateBatch", review=policy)
    assert updated.batch.spec.review.min_judged == 3

    async def accepted() -> bool:
        counts = (await stand.call("GetBatch")).progress.counts
        return [c.status for c in counts] == [batch_pb2.BATCH_ITEM_STATUS_ACCEPTED]

    await until(accepted)


async def test_a_cancelled_batch_is_watched_until_what_is_on_its_way_has_arrived(stand: Stand) -> None:
    await stand.call("ReviewItems", rest=ACCEPT)
    await stand.call("ApplyBatch", target=CRM)

    async def on_their_way() -> bool:
        counts = (await stand.call("GetBatch")).progress.counts
        return [c.status for c in counts] == [batch_pb2.BATCH_ITEM_STATUS_APPLYING]

    await until(on_their_way)
    await stand.call("CancelBatch")
    seen_of_it = []
    asked = pb.WatchBatchRequest(batch_id=stand.batch_id, min_interval={"nanos": 100_000_000})
    async with streaming(stand.stub.WatchBatch(asked, metadata=ANN)) as updates:
        async for update in updates:
            seen_of_it.append(update)
            await stand.dispatcher.send()
    assert {update.batch.status for update in seen_of_it} == {batch_pb2.BATCH_STATUS_CANCELLED}
    (last,) = seen_of_it[-1].progress.counts
    assert (last.status, last.count) == (batch_pb2.BATCH_ITEM_STATUS_APPLIED, 10)


async def test_what_is_sampled_and_reviewed_says_what_it_cost(database_url: str) -> None:
    async with invoker(database_url, token_price=2.0) as door, stood(door) as stand:
        db = stand.dispatcher.db
        await execute(db, "UPDATE batch_item SET tokens = 30 WHERE batch_id = $1", stand.which.batch_id)
        await execute(db, "UPDATE batch_total SET tokens = 300 WHERE batch_id = $1", stand.which.batch_id)
        drawn = await stand.call("SampleBatch", size=2)
        assert [item.cost_micros for stratum in drawn.strata for item in stratum.items] == [60, 60]
        said = await stand.call("ReviewItems", reviews=[{"index": 0, "verdict": ACCEPT}])
        assert said.progress.cost_micros == 600


async def test_a_sample_is_spread_over_what_items_cost(database_url: str) -> None:
    async with invoker(database_url, token_price=2.0) as door, stood(door) as stand:
        await execute(
            stand.dispatcher.db,
            "UPDATE batch_item SET tokens = index * 10 WHERE batch_id = $1",
            stand.which.batch_id,
        )
        banded = await stand.call("SampleBatch", strata={"cost_bounds_micros": [40, 100]})
        assert {stratum.cost_band: stratum.population for stratum in banded.strata} == {0: 2, 1: 3, 2: 5}
        assert {item.cost_micros for s in banded.strata if s.cost_band == 1 for item in s.items} == {
            40,
            60,
            80,
        }


async def test_a_table_has_every_field_that_any_output_has(stand: Stand) -> None:
    db, batch_id = stand.dispatcher.db, stand.which.batch_id
    put = "UPDATE batch_output SET output = $3 WHERE batch_id = $1 AND index = $2"
    await execute(db, put, batch_id, 0, b'{"sure":1}')
    await execute(db, put, batch_id, 1, b"[1]")
    edited = {"struct_value": {"sure": 1, "why": "seen"}}
    await stand.call("ReviewItems", reviews=[{"index": 2, "verdict": ACCEPT, "edited_output": edited}])
    asked = pb.ExportBatchRequest(batch_id=stand.batch_id, format=pb.EXPORT_FORMAT_CSV)
    parts = [part async for part in stand.stub.ExportBatch(asked, metadata=ANN)]
    lines = b"".join(part.data for part in parts).decode().splitlines()
    assert lines[0] == "key,status,label,confidence,review,industry,output,sure,why"
    assert [line.split(",")[5:] for line in lines[1:4]] == [
        ["", "", "1", ""],
        ["", "[1]", "", ""],
        ["", "", "1", "seen"],
    ]
    asked.after_index = 1
    rest = [part async for part in stand.stub.ExportBatch(asked, metadata=ANN)]
    assert rest[0].data.decode().strip() == lines[3], "what goes on has the same columns"
