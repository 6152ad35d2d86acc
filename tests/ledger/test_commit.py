"""Progress lands whole, once, in order, and only under the lease that is the run's now."""

import asyncio
import random
import uuid

import asyncpg
import pytest

from holdfast.kit.db import Database
from holdfast.ledger import commit as commit_path
from holdfast.ledger import commit_refusal, commit_sql, history
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_column import move_columns, progress_columns
from holdfast.ledger.commit_fate import Fate
from holdfast.ledger.commit_value import (
    CommitItem,
    CommitResult,
    Effect,
    Happened,
    Record,
    Refused,
    Requeue,
    Stored,
)
from holdfast.ledger.domain.commit import Attempted, Charge, Verdict, verdict
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.session import hand_back
from holdfast.ledger.values import Failure, Outcome
from tests.support.commit import Floor, commit, lease_ref, open_ledger
from tests.support.outbox import make_destination


@pytest.fixture
async def floor(db: Database) -> Floor:
    return await Floor(db).open()


def reason(result: CommitResult) -> str:
    assert isinstance(result, Refused), result
    return result.fault.reason


async def one(db: Database, item: CommitItem) -> CommitResult:
    return (await commit_group(db, [item]))[0]


async def test_a_group_of_commits_lands_with_steps_events_and_charges(db: Database, floor: Floor) -> None:
    runs = await floor.lease(20)
    charge = Charge(steps=2, tools=1, tokens=30, context=20)
    group = [
        commit(run, 1, keys=["fetch", "score"], events=3, emitted='{"": 1}', charge=charge) for run in runs
    ]
    random.shuffle(group)
    assert await commit_group(db, group) == [Stored(RunStatus.RUNNING, cancel_requested=False)] * 20
    for run in runs:
        row = await floor.row(run.run_id)
        assert (row["last_commit"], row["last_position"], row["last_sequence"]) == (1, 2, 4)
        assert (row["steps"], row["tools"], row["tokens"], row["context"]) == (2, 1, 30, 20)
        steps = await floor.fetch("SELECT * FROM checkpoint WHERE run_id = $1 ORDER BY position", run.run_id)
        assert [(s["position"], s["key"], s["record"], s["attempt"]) for s in steps] == [
            (1, "fetch", b"record of fetch", 1),
            (2, "score", b"record of score", 1),
        ]
        told = await floor.fetch(
            "SELECT * FROM transcript WHERE run_id = $1 AND events IS NOT NULL", run.run_id
        )
        assert [(t["first_sequence"], t["last_sequence"], t["events"], t["emitted"]) for t in told] == [
            (2, 4, b"batch", '{"": 1}')
        ]


async def test_a_commit_sent_again_is_acknowledged_and_not_applied_twice(db: Database, floor: Floor) -> None:
    (run,) = await floor.lease()
    first, second = commit(run, 1, keys=["a"], events=1), commit(run, 2, keys=["b"])
    assert isinstance(await one(db, first), Stored)
    assert isinstance(await one(db, first), Stored)
    assert isinstance(await one(db, second), Stored)
    assert isinstance(await one(db, first), Stored)
    row = await floor.row(run.run_id)
    assert (row["last_commit"], row["steps"], row["last_position"]) == (2, 2, 2)
    assert len(await floor.fetch("SELECT FROM checkpoint WHERE run_id = $1", run.run_id)) == 2


async def test_commits_of_one_run_in_one_group_land_one_after_the_other(db: Database, floor: Floor) -> None:
    (run,) = await floor.lease()
    group = [commit(run, 1, keys=["a"]), commit(run, 2, keys=["b"]), commit(run, 2, keys=["b"])]
    assert all(isinstance(result, Stored) for result in await commit_group(db, group))
    steps = await floor.fetch("SELECT key FROM checkpoint WHERE run_id = $1 ORDER BY position", run.run_id)
    assert [step["key"] for step in steps] == ["a", "b"]


async def test_the_same_commit_on_many_connections_lands_once(db: Database, floor: Floor) -> None:
    (run,) = await floor.lease()
    item = commit(run, 1, keys=["a"], events=2)
    results = await asyncio.gather(*(one(db, item) for _ in range(12)))
    assert all(isinstance(result, Stored) for result in results)
    assert (await floor.row(run.run_id))["steps"] == 1


async def test_refusals_name_their_reason_and_refuse_nobody_else(db: Database, floor: Floor) -> None:
    good, fenced, late, gap, spent = await floor.lease(5)
    unknown = CommitItem(uuid.uuid4(), 1, 1)
    results = await commit_group(
        db,
        [
            unknown,
            commit(fenced, 1, epoch=fenced.epoch + 1),
            commit(late, 3),
            commit(gap, 1, events=1, first=7),
            commit(spent, 1, charge=Charge(steps=11)),
            commit(good, 1, keys=["a"]),
        ],
    )
    assert [reason(result) for result in results[:5]] == [
        "RUN_NOT_FOUND",
        "FENCED",
        "COMMIT_OUT_OF_ORDER",
        "INVALID_FIELD",
        "BUDGET_EXCEEDED",
    ]
    assert isinstance(results[5], Stored)
    for run in (fenced, late, gap, spent):
        assert (await floor.row(run.run_id))["last_commit"] == 0


async def test_someone_who_asked_to_cancel_is_heard_with_the_acknowledgement(
    db: Database, floor: Floor
) -> None:
    (run,) = await floor.lease()
    await floor.execute("UPDATE run_state SET cancel_requested = true WHERE run_id = $1", run.run_id)
    assert await one(db, commit(run, 1)) == Stored(RunStatus.RUNNING, cancel_requested=True)


async def test_a_poisonous_commit_fails_alone(db: Database, floor: Floor) -> None:
    runs = await floor.lease(9)
    group = [commit(run, 1, keys=["a"], events=1, emitted="{}") for run in runs]
    group[4] = commit(runs[4], 1, keys=["a"], events=1, emitted='{"no json')
    group[7] = commit(runs[7], 1, keys=["a\0b"])
    results = await commit_group(db, group)
    assert [at for at, result in enumerate(results) if isinstance(result, Refused)] == [4, 7]
    assert {reason(results[4]), reason(results[7])} == {"INVALID_FIELD"}


LIMITS = [  # what was spent before, what a commit charges, the dimension that refuses it
    (Charge(steps=10), Charge(steps=1), "STEPS"),
    (Charge(steps=9), Charge(steps=2), "STEPS"),
    (Charge(steps=9), Charge(steps=1), None),
    (Charge(tools=5), Charge(tools=1), "TOOLS"),
    (Charge(tools=4), Charge(tools=1), None),
    (Charge(tokens=999), Charge(tokens=5000), None),  # the one call in flight
    (Charge(tokens=1000), Charge(tokens=1), "TOKENS"),
    (Charge(tokens=900), Charge(tokens=300, lead_tokens=100), "TOKENS"),  # two calls folded into one commit
    (Charge(tokens=900), Charge(tokens=300, lead_tokens=99), None),
    (Charge(), Charge(context=501), "CONTEXT"),
    (Charge(context=500), Charge(context=500), None),
    (Charge(steps=10, tools=5, tokens=2000), Charge(), None),  # what costs nothing is always borne
]


@pytest.mark.parametrize(("before", "charge", "dimension"), LIMITS)
async def test_the_budget_is_enforced_whatever_the_runner_believes(
    db: Database, floor: Floor, before: Charge, charge: Charge, dimension: str | None
) -> None:
    (run,) = await floor.lease()
    assert isinstance(await one(db, commit(run, 1, charge=before)), Stored)
    result = await one(db, commit(run, 2, charge=charge))
    if dimension is None:
        assert isinstance(result, Stored)
    else:
        assert isinstance(result, Refused)
        assert result.fault.reason == "BUDGET_EXCEEDED"
        assert result.fault.facts["dimension"] == dimension
        row = await floor.row(run.run_id)
        assert (row["steps"], row["tools"], row["tokens"]) == (before.steps, before.tools, before.tokens)


async def zombies_landed(db: Database, floor: Floor, *, rounds: int) -> int:
    """Let old holders commit while runs change hands; return how many of their commits were stored."""
    landed = 0
    for _ in range(rounds):
        old = await floor.lease(8)
        zombies = [commit(run, 1, keys=["zombie"], charge=Charge()) for run in old]

        async def take_over(held: list[object]) -> None:
            await hand_back(db, floor.session_id, held)  # type: ignore[arg-type]
            for run in await floor.take(8):
                await one(db, commit(run, 1, keys=["heir"]))

        taking = asyncio.create_task(take_over([lease_ref(run) for run in old]))
        attempts: list[CommitResult] = []
        while not taking.done():
            attempts += await commit_group(db, zombies)
        attempts += await commit_group(db, zombies)
        await taking
        for run in old:
            keys = await floor.fetch(
                "SELECT key, attempt FROM checkpoint WHERE run_id = $1 ORDER BY position", run.run_id
            )
            heir_began = False
            for key in keys:
                heir_began = heir_began or key["key"] == "heir"
                landed += heir_began and key["key"] == "zombie"
        assert all(isinstance(result, Stored | Refused) for result in attempts)
    return landed


async def test_a_lease_taken_over_cannot_be_committed_by_its_old_holder(db: Database, floor: Floor) -> None:
    (run,) = await floor.lease()
    await hand_back(db, floor.session_id, [lease_ref(run)])
    assert reason(await one(db, commit(run, 1, keys=["zombie"]))) == "FENCED"
    (heir,) = await floor.take()
    assert heir.epoch > run.epoch
    assert reason(await one(db, commit(run, 1, keys=["zombie"]))) == "FENCED"
    assert isinstance(await one(db, commit(heir, 1, keys=["heir"])), Stored)
    assert reason(await one(db, commit(run, 2, keys=["zombie"]))) == "FENCED"
    # The old holder's number is behind by now, and its epoch still speaks against it.
    assert reason(await one(db, commit(run, 1, keys=["zombie"]))) == "FENCED"


async def test_zombies_racing_their_heirs_write_nothing_after_them(db: Database, floor: Floor) -> None:
    assert await zombies_landed(db, floor, rounds=3) == 0


async def test_without_the_fence_zombies_do_write(
    db: Database, floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_path, "_PROGRESS", commit_sql.progress(fence="s.last_commit >= 0"))
    assert await zombies_landed(db, floor, rounds=1) > 0


async def test_without_the_budget_a_faulty_runner_does_overspend(
    db: Database, floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_path, "_PROGRESS", commit_sql.progress(budget="true"))
    (run,) = await floor.lease()
    assert isinstance(await one(db, commit(run, 1, charge=Charge(steps=11))), Stored)


async def test_overspending_on_many_connections_at_once_stays_within_the_budget(
    db: Database, floor: Floor
) -> None:
    (run,) = await floor.lease()
    for number in range(1, 30):
        rivals = [
            CommitItem(run.run_id, run.epoch, number, [Record(f"k{n}", b"r")], Charge(steps=1, tokens=60))
            for n in range(4)
        ]
        results = await asyncio.gather(*(one(db, item) for item in rivals))
        if not any(isinstance(result, Stored) for result in results):
            break
    row = await floor.row(run.run_id)
    recorded = await floor.fetch("SELECT FROM checkpoint WHERE run_id = $1", run.run_id)
    assert row["steps"] == len(recorded) == 10
    assert row["tokens"] == 600


async def test_a_group_over_many_runs_and_rivals_never_deadlocks(db: Database, floor: Floor) -> None:
    runs = await floor.lease(40)

    async def rival(number: int) -> None:
        group = [commit(run, number, keys=["k"]) for run in runs]
        random.shuffle(group)
        for result in await commit_group(db, group):
            assert isinstance(result, Stored)

    for number in range(1, 6):
        await asyncio.gather(*(rival(number) for _ in range(4)))
    for run in runs:
        assert (await floor.row(run.run_id))["steps"] == 5


def test_the_tokens_before_the_last_call_are_known() -> None:
    calls = [(1, 0, 100, 50), (1, 1, 0, 0), (1, 0, 30, 80), (0, 0, 0, 0)]
    assert Charge.of(calls) == Charge(steps=3, tools=1, tokens=130, lead_tokens=100, context=80)
    assert Charge.of([]) == Charge()


def test_a_commit_knows_its_size() -> None:
    item = CommitItem(uuid.uuid4(), 1, 1, [Record("k", b"x" * 100)], happened=Happened(1, 1, b"y" * 50))
    assert item.size > 150


async def test_the_role_of_the_service_may_do_all_of_this_and_not_admit(database_url: str) -> None:
    async with open_ledger(database_url) as owner:
        await make_destination(owner, "letters")
        floor = await Floor(owner).open()
        first, _ = await floor.admit(2, ordering_key="loan-7")
        await floor.admit(2)
        taken = {run.run_id: run for run in await floor.take(3)}
        async with open_ledger(database_url, role_name="holdfast_checkpoint") as db:
            ended = taken.pop(first)
            back, stays = taken.values()
            effect = Effect(uuid.uuid4(), "letters", "key", b"{}", ordering_key="o")
            results = await commit_group(
                db,
                [
                    commit(ended, 1, keys=["k"], events=1, move=Outcome(RunStatus.SUCCEEDED, b"1")),
                    commit(back, 1, move=Requeue(Failure("E", "e"), delay=9.0)),
                    commit(stays, 1, keys=["k"], events=1, effects=[effect]),
                ],
            )
            assert all(isinstance(result, Stored) for result in results)
            assert [page async for page in history.load_steps(db, stays.run_id, stays.epoch)]
            await history.beginning(db, stays.run_id, stays.epoch)
            await history.list_steps(db, "default", stays.run_id, after_position=0, limit=9)
            for forbidden in (
                "SELECT envelope FROM run",
                "DELETE FROM ready",
                "INSERT INTO lease SELECT * FROM lease",
                "DELETE FROM checkpoint",
                "UPDATE transcript SET events = NULL",
                "DELETE FROM run_state",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with db.connection() as connection:
                        await connection.execute(forbidden)


async def test_the_statements_touch_rows_by_index_alone_on_large_tables(db: Database, floor: Floor) -> None:
    runs = await floor.lease(64)
    await floor.execute(
        """INSERT INTO run_state (run_id, tenant, seq, day, pool, rank, ordering_key, status, epoch, attempt,
               max_attempts, create_time, deadline_time, max_steps, max_tools, max_tokens, max_context,
               deadline_ms)
           SELECT gen_random_uuid(), 'default', 1000 + n, current_date, 'count', 0, '', 5, 1, 1, 5, now(),
                  now(), 1, 1, 1, 1, 1
           FROM generate_series(1, 100000) n"""
    )
    await floor.execute("ANALYZE run_state")
    group = sorted((commit(run, 1, keys=["k"], events=1) for run in runs), key=lambda item: item.run_id)
    plain, fates = progress_columns(group), [Fate() for _ in group]
    statements = [
        (commit_sql.progress(), plain),
        (commit_sql.move(), move_columns(group, fates)),
        (commit_sql.HOLD, [[run.run_id for run in runs]]),
        (commit_sql.STANDING, [[run.run_id for run in runs]]),
    ]
    for statement, columns in statements:
        for mode in ("force_generic_plan", "force_custom_plan"):
            async with db.transaction() as connection:
                await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
                plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement}", *columns))
            assert "Seq Scan" not in plan, plan
            assert "run_state_pkey" in plan, plan


async def test_the_predicate_and_the_domain_decide_alike(db: Database, floor: Floor) -> None:
    chance = random.Random(20)
    runs = await floor.lease(250)
    for run in runs:
        await floor.execute(
            """UPDATE run_state SET status = $2::smallint, epoch = $3, last_commit = $4, last_sequence = $5,
                   steps = $6, tools = $7, tokens = $8, max_steps = 4, max_tools = 3, max_tokens = 20,
                   max_context = 9, undoing = CASE WHEN $2::smallint = 4 THEN '{}'::jsonb END
               WHERE run_id = $1""",
            run.run_id,
            chance.choice([1, 2, 2, 2, 4, 4, 5]),
            *(chance.randint(*bounds) for bounds in ((1, 2), (0, 2), (1, 2), (0, 5), (0, 4), (0, 22))),
        )
    group = []
    for run in runs:
        tokens = chance.randint(0, 12)
        charge = Charge(
            steps=chance.randint(0, 2),
            tools=chance.randint(0, 1),
            tokens=tokens,
            lead_tokens=chance.randint(0, max(tokens - 1, 0)),
            context=chance.choice([0, 9, 10]),
        )
        number, events, first = chance.randint(1, 3), chance.randint(0, 1), chance.randint(2, 3)
        end = chance.choice([None, RunStatus.SUCCEEDED, RunStatus.COMPENSATED, RunStatus.FAILED])
        move = None if end is None else Outcome(end, failure=Failure("E", "e"))
        group.append(commit(run, number, epoch=1, events=events, first=first, charge=charge, move=move))
    rows = await floor.fetch(commit_sql.STANDING, [run.run_id for run in runs])
    standing = {row["run_id"]: commit_refusal._standing(row) for row in rows}
    expected = []
    for item in group:
        first = item.happened.first_sequence if item.happened else 0
        attempted = Attempted(item.epoch, item.number, first, item.charge, commit_refusal._end_of(item))
        expected.append(verdict(attempted, standing[item.run_id]))
    got = [isinstance(result, Stored) for result in await commit_group(db, group)]
    wanted = [each in {Verdict.LANDS, Verdict.STORED} for each in expected]
    assert got == wanted
    assert set(expected) >= set(Verdict) - {Verdict.NOT_FOUND}
