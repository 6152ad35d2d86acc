"""Admission never makes two runs of a key, refuses one by one, and places directly only what may go first."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import IdempotencyKeyReused, QueueFull, RunIdTaken
from holdfast.ledger.admission import admit
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.inspect import get
from holdfast.ledger.values import Admitted, Limits, Refused
from tests.support.ledger import (
    admitted,
    contradictions,
    execute,
    fetch,
    finish,
    invocation,
    open_ledger,
    opened,
    refused,
)


async def count(db: Database, table: str) -> int:
    (row,) = await fetch(db, f"SELECT count(*) AS n FROM {table}")
    return int(row["n"])


async def test_a_hundred_identical_calls_over_two_ledgers_make_one_run(database_url: str) -> None:
    async with open_ledger(database_url) as one, open_ledger(database_url) as two:
        key = "ticket-7"
        calls = [admit(db, [invocation(idempotency_key=key)]) for db in (one, two) for _ in range(50)]
        answers = [answer for answers in await asyncio.gather(*calls) for answer in answers]
        assert all(isinstance(answer, Admitted) for answer in answers)
        found = [answer for answer in answers if isinstance(answer, Admitted)]
        assert len({answer.run_id for answer in found}) == 1
        assert sum(answer.created for answer in found) == 1
        assert await count(one, "run") == 1
        assert await contradictions(one) == []


async def test_a_key_twice_in_one_group_makes_one_run(db: Database) -> None:
    first, second = await admitted(db, invocation(idempotency_key="k"), invocation(idempotency_key="k"))
    assert (first.created, second.created) == (True, False)
    assert first.run_id == second.run_id


async def test_a_key_with_another_request_is_refused_and_told_whose_it_is(db: Database) -> None:
    (run,) = await admitted(db, invocation(idempotency_key="k"))
    no = await refused(db, invocation(idempotency_key="k", fingerprint=b"other"))
    assert isinstance(no.fault, IdempotencyKeyReused)
    assert no.fault.facts == {"run_id": str(run.run_id)}


async def test_a_key_of_two_requests_in_one_group_is_the_first_ones(db: Database) -> None:
    answers = await admit(
        db, [invocation(idempotency_key="k"), invocation(idempotency_key="k", fingerprint=b"other")]
    )
    assert isinstance(answers[0], Admitted)
    assert isinstance(answers[1], Refused)
    assert isinstance(answers[1].fault, IdempotencyKeyReused)


async def test_a_key_is_its_tenants_own(db: Database) -> None:
    runs = await admitted(db, *(invocation(tenant=t, idempotency_key="k") for t in ("acme", "umbrella")))
    assert all(run.created for run in runs)


async def test_a_run_id_is_taken_once_also_across_tenants(db: Database) -> None:
    run_id = uuid.uuid4()
    await admitted(db, invocation(run_id=run_id))
    for tenant in ("acme", "umbrella"):
        no = await refused(db, invocation(run_id=run_id, tenant=tenant, idempotency_key="another"))
        assert isinstance(no.fault, RunIdTaken)
    assert await contradictions(db) == []


async def test_two_tenants_that_choose_one_run_id_at_once_do_not_both_get_it(db: Database) -> None:
    for _ in range(20):
        run_id = uuid.uuid4()
        answers = await asyncio.gather(
            *(
                admit(db, [invocation(run_id=run_id, tenant=t), invocation(tenant=t)])
                for t in ("acme", "umbrella")
            )
        )
        assert sum(isinstance(first, Admitted) for first, _ in answers) == 1
        assert all(isinstance(second, Admitted) for _, second in answers)


async def test_a_full_queue_refuses_what_does_not_fit_and_says_when_to_come_again(db: Database) -> None:
    await execute(db, "INSERT INTO tenant (tenant, max_queued) VALUES ('acme', 2)")
    answers = await admit(db, [invocation() for _ in range(4)])
    assert [isinstance(answer, Admitted) for answer in answers] == [True, True, False, False]
    fault = answers[3].fault if isinstance(answers[3], Refused) else None
    assert isinstance(fault, QueueFull)
    assert fault.retry_after is not None
    assert fault.quota == "max_queued"
    assert await contradictions(db) == []


async def test_missing_limits_take_the_tenants_defaults(db: Database) -> None:
    await execute(db, "INSERT INTO tenant (tenant, max_steps, deadline_ms) VALUES ('acme', 7, 60000)")
    (run,) = await admitted(db, invocation(limits=Limits(max_tools=3)))
    assert (run.limits.max_steps, run.limits.max_tools) == (7, 3)
    async with db.connection() as connection:
        view = await get(connection, "acme", run.run_id)
    assert view.limits == run.limits
    assert view.deadline_time == run.deadline_time
    assert view.deadline_time - view.create_time == timedelta(minutes=1)


async def test_the_time_of_a_delayed_run_starts_after_its_delay(db: Database) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    (run,) = await admitted(db, invocation(not_before=later, limits=Limits(deadline_ms=1000)))
    assert run.deadline_time == later + timedelta(seconds=1)


async def test_a_run_goes_straight_to_an_idle_runner(db: Database) -> None:
    runner = await opened(db)
    (run,) = await admitted(db, invocation(), on=runner.idle())
    assert run.status is RunStatus.RUNNING
    assert run.lease is not None
    assert (run.lease.session_id, run.lease.epoch, run.lease.attempt) == (runner.session_id, 1, 1)
    assert run.pool == "count@1"
    assert await contradictions(db) == []
    await finish(db, run.lease)
    assert await contradictions(db) == []


async def test_no_more_go_straight_than_the_runner_has_slots(db: Database) -> None:
    runner = await opened(db)
    runs = await admitted(db, *(invocation() for _ in range(5)), on=runner.idle(2))
    assert [run.lease is not None for run in runs] == [True, True, False, False, False]


async def test_a_group_spreads_over_the_idle_runners(db: Database) -> None:
    one, two = await opened(db), await opened(db)
    offer = one.idle(4)
    both = type(offer)(
        {pool: [*servers, *two.idle().servers[pool]] for pool, servers in offer.servers.items()},
        {one.session_id: 4, two.session_id: 4},
    )
    runs = await admitted(db, *(invocation() for _ in range(6)), on=both)
    by_session = [run.lease.session_id for run in runs if run.lease]
    assert (by_session.count(one.session_id), by_session.count(two.session_id)) == (3, 3)


@pytest.mark.parametrize(
    "waiting",
    [
        {"ordering_key": "k"},
        {"not_before": datetime(2999, 1, 1, tzinfo=UTC)},
        {"agent_version": "2"},
    ],
)
async def test_what_must_wait_does_not_go_straight(db: Database, waiting: dict[str, object]) -> None:
    runner = await opened(db)
    await admitted(db, invocation(ordering_key="k"))
    (run,) = await runner.take()
    assert run.tenant == "acme"
    (later,) = await admitted(db, invocation(**waiting), on=runner.idle())
    assert later.lease is None
    assert await contradictions(db) == []


async def test_a_newcomer_does_not_overtake_those_who_wait_of_any_tenant(db: Database) -> None:
    runner = await opened(db)
    await admitted(db, invocation(tenant="umbrella"))
    (run,) = await admitted(db, invocation(), on=runner.idle())
    assert run.lease is None


async def test_a_tenant_at_its_cap_is_not_placed_and_delays_no_other(db: Database) -> None:
    await execute(db, "INSERT INTO tenant (tenant, max_in_flight) VALUES ('acme', 1)")
    runner = await opened(db)
    first, second = await admitted(db, invocation(), invocation(), on=runner.idle(9))
    assert first.lease
    assert second.lease is None
    (other,) = await admitted(db, invocation(tenant="umbrella"), on=runner.idle(9))
    assert other.lease
    assert await contradictions(db) == []


async def test_nothing_is_placed_on_a_session_that_has_ended(db: Database) -> None:
    runner = await opened(db)
    await runner.expire()
    (run,) = await admitted(db, invocation(), on=runner.idle())
    assert run.lease is None
    assert await contradictions(db) == []


async def test_groups_of_many_tenants_at_once_do_not_lock_each_other_out(db: Database) -> None:
    names = [f"tenant-{n}" for n in range(20)]
    groups = [[invocation(tenant=name) for name in (names if n % 2 else reversed(names))] for n in range(16)]
    answers = await asyncio.gather(*(admit(db, group) for group in groups))
    assert all(isinstance(answer, Admitted) for group in answers for answer in group)
    assert await count(db, "run") == 320
    assert await contradictions(db) == []


async def test_runs_of_a_tenant_are_numbered_in_the_order_they_were_admitted(db: Database) -> None:
    runs = await admitted(db, *(invocation() for _ in range(50)))
    assert [run.seq for run in runs] == sorted(run.seq for run in runs)
