"""Outputs in staging are judged, applied once each, and undone; counters equal items all the while."""

import asyncio
import json

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import BatchNotReady, DestinationNotFound, InvalidField
from holdfast.ledger import batch, batch_resend, batch_review, batch_sample, batch_view, outbox_person
from holdfast.ledger.batch_review import Judgement, Rest
from holdfast.ledger.batch_target import Target
from holdfast.ledger.batch_view import ItemFilter, ItemView
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem
from holdfast.ledger.domain.batch import BatchStatus, ItemStatus
from holdfast.ledger.domain.batch_sample import Strata
from holdfast.ledger.domain.delivery import EffectStatus
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.values import Leased, Outcome
from tests.support.batch import counts, new_batch, seen
from tests.support.batch_apply import (
    CRM,
    Dispatcher,
    accept_all,
    apply,
    check,
    effects,
    in_review,
    news,
    roll_back,
    work,
    worked_off,
)
from tests.support.ledger import Runner, execute, fetch, finish
from tests.support.outbox import make_destination, open_session, stage, staged


@pytest.fixture
async def crm(db: Database) -> Dispatcher:
    for name in ("crm", "crm-undo"):
        await make_destination(db, name, tenant="acme", max_concurrent=100_000)
    return Dispatcher(db, await open_session(db))


async def item(db: Database, which: batch_view.BatchView, index: int) -> ItemView:
    async with db.connection() as connection:
        return (await batch_view.these_items(connection, which.batch_id, [index]))[0]


async def review(db: Database, which: batch_view.BatchView, *said: Judgement) -> batch_review.Reviewed:
    return await batch_review.review(db, "acme", which.batch_id, said)


async def test_the_last_word_on_an_item_holds_and_each_is_counted_once(db: Database) -> None:
    which = await in_review(db, 5)
    first = await review(
        db, which, Judgement(0, True, reviewer="ann"), Judgement(1, False, "no", None, "ann")
    )
    assert (first.judged, first.accepted) == (2, 1)
    again = await review(db, which, Judgement(1, True, "", b'{"industry":"mining"}', "ben"))
    assert (again.judged, again.accepted) == (2, 2)
    assert await counts(db, which) == {"STAGED": 3, "ACCEPTED": 2}
    said = (await item(db, which, 1)).review
    assert said is not None
    assert (said.accepted, said.reviewer, said.edited) == (True, "ben", b'{"industry":"mining"}')
    await review(db, which, Judgement(1, False, "after all", None, "ann"))
    assert (await item(db, which, 1)).review.edited is None  # type: ignore[union-attr]
    await batch_review.review(db, "acme", which.batch_id, [], Rest(accepted=False, reason="enough"))
    await worked_off(db, which)
    assert await counts(db, which) == {"ACCEPTED": 1, "REJECTED": 4}
    rest = (await item(db, which, 4)).review
    assert rest is not None
    assert (rest.accepted, rest.reason) == (False, "enough")
    await check(db, which)


async def test_of_reviews_all_are_stored_or_none(db: Database) -> None:
    which = await in_review(db, 3)
    with pytest.raises(InvalidField) as caught:
        await review(db, which, Judgement(0, True), Judgement(3, True))
    assert [each.field for each in caught.value.violations] == ["reviews[1].index"]
    await execute(db, "UPDATE batch_item SET status = 6 WHERE batch_id = $1 AND index = 2", which.batch_id)
    with pytest.raises(BatchNotReady, match="Item 2 is SKIPPED"):
        await review(db, which, Judgement(0, True), Judgement(2, True))
    await execute(db, "UPDATE batch_item SET status = 3 WHERE batch_id = $1 AND index = 2", which.batch_id)
    assert await counts(db, which) == {"STAGED": 3}
    ready = await new_batch(db, 1, start=False)
    with pytest.raises(BatchNotReady):
        await review(db, ready, Judgement(0, True))


async def test_a_sample_is_spread_over_strata_and_the_same_for_a_seed(db: Database) -> None:
    which = await in_review(db, 100)

    async def drawn(strata: Strata, seed: int = 1, size: int = 10) -> list[batch_sample.Drawn]:
        async with db.connection() as connection:
            return await batch_sample.draw(connection, which.batch_id, size, strata, seed=seed)

    by_label = await drawn(Strata(by_label=True))
    assert [(s.label, s.population, len(s.indexes)) for s in by_label] == [
        ("retail", 70, 7),
        ("health", 20, 2),
        ("mining", 10, 1),
    ]
    assert await drawn(Strata(by_label=True)) == by_label
    assert await drawn(Strata(by_label=True), seed=2) != by_label
    assert [len(s.indexes) for s in await drawn(Strata(by_label=True, equal=True), size=12)] == [4, 4, 4]
    banded = await drawn(Strata(confidence_bounds=(0.5, 0.9)), size=20)
    assert {s.confidence_band: (s.population, len(s.indexes)) for s in banded} == {
        0: (50, 10),
        1: (40, 8),
        2: (10, 2),
    }
    assert sum(len(s.indexes) for s in await drawn(Strata(), size=1000)) == 100
    await review(db, which, *(Judgement(n, True) for n in by_label[0].indexes))
    async with db.connection() as connection:
        left = await batch_sample.draw(
            connection, which.batch_id, 100, Strata(by_label=True), seed=1, unjudged_only=True
        )
    assert not set(left[0].indexes) & set(by_label[0].indexes)
    assert await drawn(Strata(by_label=True)) == by_label


async def test_accepted_outputs_become_effects_once_and_applied_when_delivered(
    db: Database, crm: Dispatcher
) -> None:
    which = await in_review(db, 6)
    await execute(
        db,
        'UPDATE batch_input SET current = \'{"industry":"none"}\' WHERE batch_id = $1',
        which.batch_id,
    )
    await review(
        db,
        which,
        Judgement(0, True, "", b'{"industry":"mining"}'),
        Judgement(1, True),
        Judgement(2, False, "no"),
    )
    assert await apply(db, which, dry_run=True) == 2
    assert (await seen(db, which)).status is BatchStatus.IN_REVIEW
    assert await apply(db, which) == 2
    await worked_off(db, which)
    assert await counts(db, which) == {"APPLYING": 2, "REJECTED": 1, "STAGED": 3}
    first, second = await effects(db, which)
    assert json.loads(first["text"]) == {
        "batch_id": str(which.batch_id),
        "index": 0,
        "key": (await item(db, which, 0)).key,
        "payload": {"n": 0},
        "current": {"industry": "none"},
        "output": {"industry": "mining"},
    }
    assert (first["idempotency_key"], json.loads(second["text"])["index"]) == (
        f"batch/{which.batch_id}/0/apply",
        1,
    )
    assert await crm.send() == 2
    await worked_off(db, which)
    assert await counts(db, which) == {"APPLIED": 2, "REJECTED": 1, "STAGED": 3}
    assert (await seen(db, which)).status is BatchStatus.APPLIED
    assert (await item(db, which, 0)).effect_id == first["effect_id"]
    assert not await fetch(db, "SELECT FROM batch_news")
    assert not await fetch(db, "SELECT FROM batch_applying")
    # Of what is judged later, only that is applied; and to the target of the first time.
    await review(db, which, Judgement(2, True), Judgement(3, True))
    assert await apply(db, which, Target(b"x", "nowhere")) == 2
    await worked_off(db, which)
    assert await crm.send() == 2
    await worked_off(db, which)
    assert await counts(db, which) == {"APPLIED": 4, "STAGED": 2}
    await check(db, which)


async def test_many_invokers_at_once_apply_each_item_once(db: Database, crm: Dispatcher) -> None:
    which = await in_review(db, 400)
    await accept_all(db, which)
    await apply(db, which)
    while (await counts(db, which)).get("APPLIED", 0) < 400:
        await asyncio.gather(*(work(db, which, window=90) for _ in range(4)), *(news(db) for _ in range(3)))
        assert (await counts(db, which)).get("APPLYING", 0) <= 90
        await crm.send(70)
        await check(db, which)
    found = await effects(db, which)
    assert len(found) == 400 == len({each["idempotency_key"] for each in found})


async def test_what_is_not_delivered_fails_and_arrives_after_all(db: Database, crm: Dispatcher) -> None:
    which = await in_review(db, 3)
    await accept_all(db, which)
    await apply(db, which)
    await worked_off(db, which)
    await crm.send(1, EffectStatus.DEAD_LETTERED)
    await crm.send()
    await worked_off(db, which)
    assert await counts(db, which) == {"APPLIED": 2, "APPLY_FAILED": 1}
    assert (await seen(db, which)).status is BatchStatus.APPLIED
    (failed,) = [n for n in range(3) if (await item(db, which, n)).status is ItemStatus.APPLY_FAILED]
    failure = (await item(db, which, failed)).failure
    assert failure is not None
    assert failure.reason == "HTTP_500"
    await check(db, which)
    view, again = await batch_resend.apply_again(db, "acme", which.batch_id, ItemFilter())
    assert (view.status, again) == (BatchStatus.APPLYING, 1)
    await worked_off(db, which)
    assert await crm.send() == 1
    await worked_off(db, which)
    assert await counts(db, which) == {"APPLIED": 3}
    assert len(await effects(db, which)) == 3, "it is the same effect under the same key"


async def test_an_effect_that_a_person_sends_again_counts_when_it_arrives(
    db: Database, crm: Dispatcher
) -> None:
    which = await in_review(db, 1)
    await accept_all(db, which)
    await apply(db, which)
    await worked_off(db, which)
    await crm.send(1, EffectStatus.DEAD_LETTERED)
    await worked_off(db, which)
    (effect,) = await effects(db, which)
    await outbox_person.retry(db, "acme", effect["effect_id"])
    await crm.send()
    await worked_off(db, which)
    assert await counts(db, which) == {"APPLIED": 1}
    await check(db, which)


async def test_an_effect_whose_key_is_someone_else_s_fails_alone(db: Database, crm: Dispatcher) -> None:
    which = await in_review(db, 3)
    await stage(db, staged("crm", key=f"batch/{which.batch_id}/1/apply", tenant="acme"))
    await accept_all(db, which)
    await apply(db, which)
    await worked_off(db, which)
    assert await counts(db, which) == {"APPLYING": 2, "APPLY_FAILED": 1}
    assert await crm.send() == 3
    await worked_off(db, which)
    assert await counts(db, which) == {"APPLIED": 2, "APPLY_FAILED": 1}
    assert not await fetch(db, "SELECT FROM batch_news"), "news of no deed is passed over"
    await check(db, which)


async def test_a_target_must_be_known_and_there(db: Database, crm: Dispatcher) -> None:
    del crm
    which = await in_review(db, 1)
    with pytest.raises(InvalidField):
        await apply(db, which, None)
    with pytest.raises(DestinationNotFound):
        await apply(db, which, Target(b"x", "nowhere"))
    assert (await seen(db, which)).status is BatchStatus.IN_REVIEW
    ready = await new_batch(db, 1, start=False)
    with pytest.raises(BatchNotReady):
        await apply(db, ready)


async def test_no_more_are_applied_a_second_than_asked(db: Database, crm: Dispatcher) -> None:
    del crm
    which = await in_review(db, 30)
    await accept_all(db, which)
    await apply(db, which, per_second=0.001)
    assert (await work(db, which)).items == 0
    await execute(db, "UPDATE batch SET apply_clock = clock_timestamp() - interval '1 day'")
    assert (await work(db, which)).items == 1, "what was saved up is one item at this rate"
    assert (await work(db, which)).items == 0
    await execute(
        db,
        "UPDATE batch SET apply_per_second = 10, apply_clock = clock_timestamp() - interval '1 day'",
    )
    assert (await work(db, which)).items == 10
    assert (await work(db, which)).items < 10


async def test_a_pause_holds_what_is_not_on_its_way(db: Database, crm: Dispatcher) -> None:
    which = await in_review(db, 10)
    await accept_all(db, which)
    await apply(db, which)
    await work(db, which, window=4)
    await batch.pause(db, "acme", which.batch_id, "look")
    await worked_off(db, which)
    await crm.send()
    await worked_off(db, which)
    assert await counts(db, which) == {"APPLIED": 4, "ACCEPTED": 6}
    resumed = await batch.resume(db, "acme", which.batch_id)
    assert resumed.status is BatchStatus.APPLYING
    await worked_off(db, which)
    await crm.send()
    await worked_off(db, which)
    assert await counts(db, which) == {"APPLIED": 10}


async def test_what_was_applied_is_undone_the_newest_first(db: Database, crm: Dispatcher) -> None:
    which = await in_review(db, 6)
    await review(db, which, *(Judgement(n, True) for n in (4, 5)))
    await apply(db, which)
    await worked_off(db, which)
    await crm.send()
    await worked_off(db, which)
    await accept_all(db, which)
    await apply(db, which)
    await work(db, which, window=2)  # 0 and 1 are on their way
    await roll_back(db, which)
    await worked_off(db, which)
    assert await counts(db, which) == {"ACCEPTED": 2, "APPLYING": 2, "APPLIED": 2}
    await crm.send()
    await worked_off(db, which)
    undos = [
        each["idempotency_key"] for each in await effects(db, which) if "undo" in each["idempotency_key"]
    ]
    assert [int(key.split("/")[2]) for key in undos] == [5, 4, 1, 0], "those that arrived late come after"
    await crm.send(1, EffectStatus.DEAD_LETTERED)
    await crm.send()
    await worked_off(db, which)
    assert await counts(db, which) == {"ACCEPTED": 2, "ROLLED_BACK": 3, "ROLLBACK_FAILED": 1}
    assert (await seen(db, which)).status is BatchStatus.ROLLED_BACK
    await check(db, which)
    await roll_back(db, which)
    await worked_off(db, which)
    assert await crm.send() == 1
    await worked_off(db, which)
    assert await counts(db, which) == {"ACCEPTED": 2, "ROLLED_BACK": 4}
    assert (await seen(db, which)).status is BatchStatus.ROLLED_BACK
    await check(db, which)


async def test_a_rollback_may_mean_some_and_those_without_an_undo_say_so(
    db: Database, crm: Dispatcher
) -> None:
    which = await in_review(db, 20)
    await accept_all(db, which)
    await apply(db, which, Target(b"x", "crm"))
    await worked_off(db, which)
    await crm.send()
    await worked_off(db, which)
    mining = ItemFilter(label="mining")
    assert await roll_back(db, which, mining, dry_run=True) == 2
    assert await roll_back(db, which, mining) == 2
    await worked_off(db, which)
    assert await counts(db, which) == {"APPLIED": 18, "ROLLBACK_FAILED": 2}
    why = (await item(db, which, 9)).failure
    assert why is not None
    assert why.reason == "NOT_UNDOABLE"
    assert (await seen(db, which)).status is BatchStatus.ROLLED_BACK


async def test_undos_that_failed_are_tried_again_chunk_by_chunk_and_only_those_that_are_meant(
    db: Database, crm: Dispatcher
) -> None:
    which = await in_review(db, 20)
    await accept_all(db, which)
    await apply(db, which)
    await worked_off(db, which)
    await crm.send()
    await worked_off(db, which)
    await roll_back(db, which)
    await worked_off(db, which)
    await crm.send(20, EffectStatus.DEAD_LETTERED)
    await worked_off(db, which)
    assert await counts(db, which) == {"ROLLBACK_FAILED": 20}
    await roll_back(db, which, ItemFilter(label="health"))
    assert await counts(db, which) == {"ROLLBACK_FAILED": 20}, "an Invoker does it, not the call"
    moved = []
    for _ in range(4):
        await work(db, which, window=3)
        moved.append((await counts(db, which)).get("APPLIED", 0))
        await crm.send()
        await news(db)
    assert moved[0] == 3, "no more at once than may be on their way"
    await worked_off(db, which)
    await crm.send()
    await worked_off(db, which)
    assert await counts(db, which) == {"ROLLED_BACK": 4, "ROLLBACK_FAILED": 16}
    assert (await seen(db, which)).status is BatchStatus.ROLLED_BACK
    await check(db, which)


async def test_a_policy_that_is_met_accepts_the_rest_and_applies(db: Database, crm: Dispatcher) -> None:
    which = await in_review(
        db,
        50,
        min_accepted_share=0.9,
        min_judged=10,
        apply_when_met=True,
        apply_target=b"crm",
        apply_destination="crm",
    )
    few = await review(db, which, *(Judgement(n, True) for n in range(8)), Judgement(8, False, "no"))
    assert not few.policy_met
    await worked_off(db, which)
    assert (await seen(db, which)).status is BatchStatus.IN_REVIEW
    assert (await review(db, which, Judgement(9, True))).policy_met
    await worked_off(db, which)
    assert await counts(db, which) == {"APPLYING": 49, "REJECTED": 1}
    await crm.send()
    await worked_off(db, which)
    assert (await seen(db, which)).status is BatchStatus.APPLIED
    await check(db, which)


async def test_a_reviewing_agent_judges_a_sample_and_the_policy_decides(db: Database) -> None:
    which = await in_review(
        db, 40, min_accepted_share=0.8, min_judged=10, reviewer_intent="count", review=b"r"
    )
    runner = Runner(db)
    await runner.open()
    await worked_off(db, which)
    taken = await runner.take(100)
    assert len(taken) == 10
    await answer(db, taken[:8], b'{"verdict":"ACCEPT"}')
    await answer(db, taken[8:9], b'{"verdict":"REJECT","reason":"odd"}')
    await answer(db, taken[9:], b'"what?"')
    await worked_off(db, which)
    assert await counts(db, which) == {"ACCEPTED": 8, "REJECTED": 1, "STAGED": 31}
    said = [(await item(db, which, n)).review for n in range(40)]
    assert {each.reviewer for each in said if each} <= {str(run.run_id) for run in taken}
    assert (await review(db, which, Judgement((await staged_ones(db, which))[0], True))).policy_met
    await worked_off(db, which)
    assert (await counts(db, which)).get("STAGED") is None
    await check(db, which)


async def test_a_sample_for_which_the_queue_has_no_room_is_asked_about_later(db: Database) -> None:
    which = await in_review(db, 20, min_judged=6, reviewer_intent="count", review=b"r")
    await execute(db, "UPDATE tenant SET max_queued = 4 WHERE tenant = 'acme'")
    runner = Runner(db)
    await runner.open()
    await worked_off(db, which)
    first = await runner.take(100)
    assert len(first) == 4
    assert not (await work(db, which)).rests, "two are left"
    await answer(db, first, b'{"verdict":"ACCEPT"}')
    await worked_off(db, which)
    await answer(db, await runner.take(100), b'{"verdict":"ACCEPT"}')
    await worked_off(db, which)
    assert await counts(db, which) == {"ACCEPTED": 6, "STAGED": 14}
    assert not await fetch(db, "SELECT FROM batch_applying")


async def test_a_reviewer_that_does_not_judge_is_asked_about_others_as_many_as_its_sample_has(
    db: Database,
) -> None:
    which = await in_review(db, 30, min_judged=5, reviewer_intent="count", review=b"r")
    runner = Runner(db)
    await runner.open()
    asked = []
    for _ in range(4):
        await worked_off(db, which)
        taken = await runner.take(3)
        asked += taken
        for run in taken[:2]:
            await finish(db, run, RunStatus.FAILED)
        await answer(db, taken[2:], b'"no idea"')
    await worked_off(db, which)
    assert len({run.run_id for run in asked}) == 10
    assert not await runner.take(10)
    assert await counts(db, which) == {"STAGED": 30}
    assert not await fetch(db, "SELECT FROM batch_applying")


async def staged_ones(db: Database, which: batch_view.BatchView) -> list[int]:
    rows = await fetch(
        db, "SELECT index FROM batch_item WHERE batch_id = $1 AND status = 3 ORDER BY index", which.batch_id
    )
    return [row["index"] for row in rows]


async def answer(db: Database, runs: list[Leased], result: bytes) -> None:
    await commit_group(
        db,
        [
            CommitItem(run.run_id, run.epoch, run.last_commit + 1, move=Outcome(RunStatus.SUCCEEDED, result))
            for run in runs
        ],
    )


async def test_a_follow_up_run_applies_an_item_when_it_succeeds(db: Database) -> None:
    which = await in_review(db, 3)
    await accept_all(db, which)
    await apply(db, which, Target(b"run"))
    await worked_off(db, which)
    runner = Runner(db)
    await runner.open()
    first, *others = await runner.take(10)
    assert len(others) == 2
    await finish(db, first, RunStatus.FAILED)
    for run in others:
        await finish(db, run)
    await worked_off(db, which)
    assert await counts(db, which) == {"APPLIED": 2, "APPLY_FAILED": 1}
    assert (await seen(db, which)).status is BatchStatus.APPLIED
    assert CRM.destination == "crm"
    await check(db, which)


async def test_items_can_be_asked_for_by_whether_they_change_anything(db: Database) -> None:
    which = await in_review(db, 3)
    await execute(
        db,
        """UPDATE batch_input SET current = CASE index
               WHEN 0 THEN '{"sure": 0.0, "industry": "retail"}'::bytea WHEN 1 THEN '{"industry": "none"}' END
           WHERE batch_id = $1""",
        which.batch_id,
    )
    async with db.connection() as connection:
        changed, _ = await batch_view.list_items(
            connection, which.batch_id, ItemFilter(changed=True), limit=9
        )
    assert [each.index for each in changed] == [1]
    await review(db, which, Judgement(0, True, "", b'{"industry":"mining"}'))
    async with db.connection() as connection:
        changed, _ = await batch_view.list_items(
            connection, which.batch_id, ItemFilter(changed=True), limit=9
        )
    assert [each.index for each in changed] == [0, 1]


async def test_of_large_items_fewer_are_taken_at_once(db: Database, crm: Dispatcher) -> None:
    which = await in_review(db, 30)
    await execute(
        db,
        """UPDATE batch_output SET output = convert_to('{"text":"' || repeat('x', 1000000) || '"}', 'UTF8')
           WHERE batch_id = $1 AND index > 0""",
        which.batch_id,
    )
    await accept_all(db, which)
    await apply(db, which)
    taken = []
    while (done := await work(db, which)).items:
        taken.append(done.items)
    assert len(taken) > 3
    assert sum(taken) == 30
    assert max(taken) < 12
    while await crm.send():
        await worked_off(db, which)
    assert await counts(db, which) == {"APPLIED": 30}


async def test_what_a_person_says_of_the_rest_goes_before_the_policy(db: Database) -> None:
    which = await in_review(db, 5, min_accepted_share=0.5, min_judged=1)
    await batch_review.review(
        db, "acme", which.batch_id, [Judgement(0, True)], Rest(accepted=False, reason="too few")
    )
    await worked_off(db, which)
    assert await counts(db, which) == {"ACCEPTED": 1, "REJECTED": 4}
