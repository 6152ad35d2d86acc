"""Light items: one run executes many, each ends for itself, and a chunk's bad end blames none of them."""

import json
from typing import Any

import pytest

from holdfast.kit.db import Database
from holdfast.ledger import batch
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Refused
from holdfast.ledger.domain.batch import AfterLight, BatchStatus, after_light
from holdfast.ledger.domain.budget import Dimension
from holdfast.ledger.domain.status import ENDED, RunStatus
from holdfast.ledger.orphan import cancel_orphans
from holdfast.ledger.sweep import sweep
from holdfast.ledger.values import Failure, Leased, Outcome
from tests.support.batch import LIGHT, LIGHTLY, counts, new_batch, seen, step
from tests.support.ledger import execute, fetch, opened

S = RunStatus


def said(*statuses: RunStatus | None, **more: Any) -> bytes:
    """Return what a chunk says of its items, the first of index 0; None was not executed to its end."""
    items = [
        {"index": index, "status": int(status or 0), "tokens": 10, "ms": 5.0} | more
        for index, status in enumerate(statuses)
    ]
    for item in items:
        if item["status"] == S.SUCCEEDED:
            item["result"] = f'{{"n":{item["index"]}}}'
        elif item["status"]:
            item["failure"] = {"reason": f"WHY_{item['status']}", "message": "Because."}
    return json.dumps(json.dumps(items)).encode()


async def end(db: Database, run: Leased, result: bytes | None, status: RunStatus = S.SUCCEEDED) -> Any:
    failure = None if status is S.SUCCEEDED else Failure("Odd", "It was odd.")
    exhausted = Dimension.DEADLINE if status is S.PARTIAL else Dimension(0)
    outcome = Outcome(status, result, failure, exhausted)
    (answer,) = await commit_group(db, [CommitItem(run.run_id, run.epoch, 1, move=outcome)])
    return answer


async def test_items_of_an_agent_that_declares_them_light_share_one_run_and_end_each_for_itself(
    db: Database,
) -> None:
    runner = await opened(db, LIGHTLY)
    which = await new_batch(db, 4, tenant="acme", max_attempts=2, initial_backoff_ms=3_600_000)
    await execute(db, "INSERT INTO tenant (tenant) VALUES ('acme') ON CONFLICT DO NOTHING")
    assert (await step(db, which)).items == 4
    (run,) = await runner.take(5)
    assert run.intent == LIGHT
    assert not await fetch(db, "SELECT FROM batch_item WHERE run_id IS NOT NULL"), "no item has a run"
    await end(db, run, said(S.SUCCEEDED, S.FAILED, S.DEAD_LETTERED, None))
    assert await counts(db, which) == {"STAGED": 1, "SKIPPED": 1, "PENDING": 2}
    rows = await fetch(db, "SELECT * FROM batch_item ORDER BY index")
    assert [row["attempts"] for row in rows] == [1, 1, 1, 0], "what was not executed has not been tried"
    assert [row["not_before"] is not None for row in rows] == [False, False, True, False]
    assert json.loads(rows[1]["failure"])["reason"] == "WHY_7"
    (output,) = await fetch(db, "SELECT output FROM batch_output")
    assert output["output"] == b'{"n":0}'
    (total,) = await fetch(db, "SELECT tokens FROM batch_total")
    assert total["tokens"] == 40
    assert (await step(db, which)).items == 1, "the other waits for its backoff"


@pytest.fixture
async def ready(db: Database) -> Any:
    await execute(db, "INSERT INTO tenant (tenant) VALUES ('acme') ON CONFLICT DO NOTHING")
    return await opened(db, LIGHTLY)


async def test_a_chunk_that_ends_badly_is_tried_item_by_item_and_only_the_culprit_is_skipped(
    db: Database, ready: Any
) -> None:
    which = await new_batch(db, 3)
    await step(db, which)
    (run,) = await ready.take(5)
    await end(db, run, None, S.DEAD_LETTERED)
    assert await counts(db, which) == {"PENDING": 3}
    rows = await fetch(db, "SELECT attempts, alone FROM batch_item")
    assert {(row["attempts"], row["alone"]) for row in rows} == {(0, True)}
    for index in range(3):
        assert (await step(db, which)).items == 1
        assert (await step(db, which)).items == 0, "one at a time, lest one takes another with it"
        (each,) = await ready.take(5)
        if index == 1:
            await end(db, each, None, S.DEAD_LETTERED)
        else:
            alone = [{"index": index, "status": int(S.SUCCEEDED), "result": "1"}]
            await end(db, each, json.dumps(json.dumps(alone)).encode())
    assert await counts(db, which) == {"STAGED": 2, "SKIPPED": 1}
    (failed,) = await fetch(db, "SELECT failure FROM batch_item WHERE status = 6")
    assert json.loads(failed["failure"])["reason"] == "Odd"


async def test_a_chunk_that_found_no_runner_in_time_blames_nobody(db: Database, ready: Any) -> None:
    which = await new_batch(db, 2)
    await step(db, which)
    (run,) = await ready.take(5)
    await end(db, run, None, S.PARTIAL)
    rows = await fetch(db, "SELECT status, attempts, alone FROM batch_item")
    assert {tuple(row) for row in rows} == {(1, 0, False)}


async def test_what_is_in_flight_is_counted_in_runs_as_their_ends_are(db: Database, ready: Any) -> None:
    which = await new_batch(db, 60, max_parallelism=80)  # chunks of 20
    assert (await step(db, which)).in_flight == 1
    await ready.take(5)
    assert (await step(db, which)).in_flight == 3, "as many as the driver would have made of them"
    plain = await new_batch(db, 60, max_parallelism=80, intent="other")
    assert [(await step(db, plain)).in_flight for _ in range(2)] == [60, 60]


async def test_a_lease_taken_over_cannot_record_a_chunk_and_nothing_is_recorded_twice(
    db: Database, ready: Any
) -> None:
    which = await new_batch(db, 2)
    await step(db, which)
    (old,) = await ready.take(5)
    await execute(db, "UPDATE runner_session SET expire_time = now() - interval '1 s'")
    await sweep(db)
    other = await opened(db, LIGHTLY)
    (run,) = await other.take(5)
    assert run.run_id == old.run_id
    assert run.epoch > old.epoch
    assert isinstance(await end(db, old, said(S.FAILED, S.FAILED)), Refused)
    assert await counts(db, which) == {"RUNNING": 2}
    for _ in range(2):
        await end(db, run, said(S.SUCCEEDED, S.SUCCEEDED))
        assert await counts(db, which) == {"STAGED": 2}
    assert len(await fetch(db, "SELECT FROM batch_output")) == 2


async def test_cancelling_ends_chunks_that_wait_and_those_that_run(db: Database, ready: Any) -> None:
    which = await new_batch(db, 4, max_parallelism=2)
    await step(db, which)
    (run,) = await ready.take(1)
    assert run.intent == LIGHT
    await batch.cancel(db, "acme", which.batch_id, "enough")
    await cancel_orphans(db)
    await step(db, which)
    assert await counts(db, which) == {"CANCELLED": 2, "RUNNING": 2}
    await end(db, run, said(S.SUCCEEDED, S.CANCELLED))
    assert await counts(db, which) == {"CANCELLED": 3, "STAGED": 1}
    assert (await seen(db, which)).status is BatchStatus.CANCELLED


async def test_the_ledger_moves_a_light_item_as_the_domain_says(db: Database, ready: Any) -> None:
    told = (None, S.SUCCEEDED, S.PARTIAL, S.FAILED, S.CANCELLED, S.DEAD_LETTERED)
    for tries in (1, 2):
        which = await new_batch(db, len(told), max_attempts=tries, initial_backoff_ms=3_600_000)
        await step(db, which)
        (run,) = await ready.take(1)
        await end(db, run, said(*told))
        rows = await fetch(db, "SELECT * FROM batch_item WHERE batch_id = $1 ORDER BY index", which.batch_id)
        assert [_of(row) for row in rows] == [
            _says(S.SUCCEEDED, item, shared=True, tries=tries) for item in told
        ]
    for status in sorted(ENDED - {S.COMPENSATED, S.SUCCEEDED}):
        for shared, alone in ((True, False), (False, False), (False, True)):
            for tries in (1, 2):
                which = await new_batch(
                    db, 2 if shared else 1, max_attempts=tries, initial_backoff_ms=3_600_000
                )
                await execute(
                    db, "UPDATE batch_item SET alone = $2 WHERE batch_id = $1", which.batch_id, alone
                )
                await step(db, which)
                (run,) = await ready.take(1)
                await end(db, run, None, status)
                row, *_ = await fetch(db, "SELECT * FROM batch_item WHERE batch_id = $1", which.batch_id)
                expected = _says(status, None, shared=shared, tries=tries, alone=alone)
                assert _of(row) == expected, (status, shared, alone, tries)


def _of(row: Any) -> tuple[int, int, bool]:
    return row["status"], row["attempts"], row["alone"]


def _says(
    chunk: RunStatus, item: RunStatus | None, *, shared: bool, tries: int, alone: bool = False
) -> tuple[int, int, bool]:
    after: AfterLight = after_light(
        chunk,
        item,
        shared=shared,
        alone=alone,
        out_of_time=chunk is S.PARTIAL,
        skip_staging=False,
        cancelled=False,
        attempts=1,
        max_attempts=tries,
    )
    return int(after.status), int(after.counts), after.alone
