"""Limits are edited while tenants work, hold from the next admission and claim on, and bear races."""

import asyncio
from collections import Counter
from dataclasses import fields
from datetime import UTC, datetime

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import RateLimited, TenantNotFound
from holdfast.ledger import tenant
from holdfast.ledger.admission import admit
from holdfast.ledger.domain.tenant import Terms
from holdfast.ledger.values import Admitted, Refused
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


async def terms_of(db: Database, name: str = "acme") -> Terms:
    async with db.connection() as connection:
        return (await tenant.get(connection, name)).terms


async def test_the_platforms_defaults_are_those_of_a_tenant_first_seen(db: Database) -> None:
    await admitted(db, invocation())
    assert await terms_of(db) == Terms()
    (row,) = await fetch(db, "SELECT * FROM tenant")
    assert {field.name for field in fields(Terms)} < dict(row).keys()


async def test_a_tenant_that_is_not_there_is_made_only_when_asked(db: Database) -> None:
    with pytest.raises(TenantNotFound):
        await terms_of(db)
    with pytest.raises(TenantNotFound):
        await tenant.change(db, "acme", {"weight": 4})
    changed = await tenant.change(db, "acme", {"weight": 4}, make=True)
    assert changed.view.terms == Terms(weight=4)
    again = await tenant.change(db, "acme", {"max_in_flight": 5, "max_steps": 7})
    assert again.view.terms == Terms(weight=4, max_in_flight=5, max_steps=7) == await terms_of(db)
    assert again.view.update_time > changed.view.update_time > again.view.create_time


async def test_changes_of_different_limits_at_once_are_all_kept(db: Database) -> None:
    names = [field.name for field in fields(Terms) if field.type in (int, float)]
    await asyncio.gather(
        *(tenant.change(db, "acme", {name: 50 + n}, make=True) for n, name in enumerate(names))
    )
    values = [getattr(await terms_of(db), name) for name in names]
    assert values == [50 + n for n in range(len(values))]


async def test_defaults_of_budgets_hold_for_the_next_run(db: Database) -> None:
    await tenant.change(db, "acme", {"max_steps": 7, "max_tokens": 9}, make=True)
    runner = await opened(db)
    (queued,) = await admitted(db, invocation())
    assert (queued.limits.max_steps, queued.limits.max_tokens, queued.limits.max_tools) == (7, 9, 1000)
    await runner.take()
    await tenant.change(db, "acme", {"max_steps": 8})
    (placed,) = await admitted(db, invocation(), on=runner.idle())
    assert placed.lease is not None
    assert placed.limits.max_steps == 8


async def test_a_full_queue_takes_more_as_soon_as_it_may(db: Database) -> None:
    await tenant.change(db, "acme", {"max_queued": 1}, make=True)
    await admitted(db, invocation())
    assert (await refused(db, invocation())).fault.quota == "max_queued"
    await tenant.change(db, "acme", {"max_queued": 2})
    await admitted(db, invocation())


async def test_a_raised_cap_frees_what_it_held_back_and_names_the_pools(db: Database) -> None:
    await tenant.change(db, "acme", {"max_in_flight": 1}, make=True)
    await admitted(db, *(invocation() for _ in range(5)))
    runner = await opened(db)
    assert len(await runner.take(5)) == 1
    assert await runner.take(5) == []
    raised = await tenant.change(db, "acme", {"max_in_flight": 3})
    assert raised.pools == ["count"]
    assert await contradictions(db) == []
    assert len(await runner.take(5)) == 2
    assert (await tenant.change(db, "acme", {"weight": 2})).pools == []


async def test_a_lowered_cap_takes_nothing_back_and_lets_nothing_in(db: Database) -> None:
    await admitted(db, *(invocation() for _ in range(5)))
    runner = await opened(db)
    held = await runner.take(3)
    await tenant.change(db, "acme", {"max_in_flight": 2})
    assert await contradictions(db) == []
    for run, takes in zip(held, (0, 1, 1), strict=True):
        await finish(db, run)
        assert len(await runner.take(5)) == takes
        assert await contradictions(db) == []


async def test_caps_hold_while_they_are_edited_under_load(database_url: str, db: Database) -> None:
    """Claimers, enders and an editor at once: a claim never leaves more in flight than the largest cap."""
    await admitted(db, *(invocation() for _ in range(120)))
    runner = await opened(db)
    done, most = 0, 0

    async def work(own: Database) -> None:
        nonlocal done
        mine = await opened(own)
        for _ in range(40):
            for run in await mine.take(3):
                await finish(own, run)
                done += 1

    async def edit(own: Database) -> None:
        nonlocal most
        for cap in (2, 5, 1, 4, 3, 5, 2) * 4:
            await tenant.change(own, "acme", {"max_in_flight": cap})
            (row,) = await fetch(own, "SELECT count(*) AS n FROM lease")
            most = max(most, row["n"])

    async with open_ledger(database_url) as one, open_ledger(database_url) as two:
        await asyncio.gather(work(one), work(two), work(db), edit(two))
    assert await contradictions(db) == []
    assert 0 < most <= 5
    await tenant.change(db, "acme", {"max_in_flight": 1000})
    while left := await runner.take(50):
        for run in left:
            await finish(db, run)
            done += 1
    assert done == 120


async def test_weights_are_held_within_a_tenth_and_edited_live(db: Database) -> None:
    weights = {"a": 1, "b": 2, "c": 5}
    for name, weight in weights.items():
        await tenant.change(db, name, {"weight": weight}, make=True)
        await admitted(db, *(invocation(tenant=name) for _ in range(400)))
    runner = await opened(db)

    async def shares(rounds: int) -> dict[str, float]:
        took: Counter[str] = Counter()
        for n in range(rounds):
            took.update(run.tenant for run in await runner.take(1 + n * 7 % 13))
        return {name: took[name] / took.total() for name in weights}

    for name, share in (await shares(60)).items():
        assert share == pytest.approx(weights[name] / 8, rel=0.1), name
    await tenant.change(db, "a", {"weight": 5})
    for name, share in (await shares(40)).items():
        assert share == pytest.approx({"a": 5, "b": 2, "c": 5}[name] / 12, rel=0.1), name


async def test_a_rate_is_held_over_every_second_with_three_admitters(database_url: str, db: Database) -> None:
    rate, burst = 40.0, 5
    await tenant.change(db, "acme", {"rate": rate, "burst": burst}, make=True)
    runner = await opened(db)
    answers: list[Admitted | Refused] = []

    async def press(own: Database, until: float, *, placed: bool) -> None:
        while asyncio.get_running_loop().time() < until:
            if placed:  # by the quick way, for nothing waits where this runner serves
                answers.extend(await admit(own, [invocation()], runner.idle(4)))
            else:
                answers.extend(await admit(own, [invocation(intent="other") for _ in range(4)]))

    async with open_ledger(database_url) as one, open_ledger(database_url) as two:
        end = asyncio.get_running_loop().time() + 2.5
        await asyncio.gather(
            press(one, end, placed=False), press(two, end, placed=False), press(db, end, placed=True)
        )
    times = sorted(one.create_time.timestamp() for one in answers if isinstance(one, Admitted))
    faults = [one.fault for one in answers if isinstance(one, Refused)]
    assert faults
    assert any(one.lease for one in answers if isinstance(one, Admitted))
    for fault in faults:
        assert isinstance(fault, RateLimited)
        assert fault.quota == "rate"
        assert fault.retry_after is not None
        assert 0 < fault.retry_after <= 4 / rate + 0.001
    for begin in times:
        assert sum(begin <= time < begin + 1 for time in times) <= burst + rate + 1e-6
    assert len(times) >= 0.9 * (burst + rate * 2.4)  # and it is not held by letting nothing in
    (row,) = await fetch(db, "SELECT count(*) AS n FROM run")
    assert row["n"] == len(times)


async def test_the_quick_way_leaves_to_the_thorough_one_what_is_too_fast(db: Database) -> None:
    await tenant.change(db, "acme", {"rate": 0.01, "burst": 3}, make=True)
    runner = await opened(db)
    answers = await admit(db, [invocation() for _ in range(5)], runner.idle(5))
    assert [isinstance(one, Admitted) for one in answers] == [True] * 3 + [False] * 2
    waits = [one.fault.retry_after or 0 for one in answers if isinstance(one, Refused)]
    assert waits == [pytest.approx(100, abs=1), pytest.approx(200, abs=1)]
    assert await contradictions(db) == []


async def test_a_run_that_is_found_again_or_does_not_fit_costs_no_rate(db: Database) -> None:
    await tenant.change(db, "acme", {"rate": 0.001, "burst": 2, "max_queued": 1}, make=True)
    await admitted(db, invocation(idempotency_key="k"))
    for _ in range(3):
        (found,) = await admitted(db, invocation(idempotency_key="k"))
        assert not found.created
        assert (await refused(db, invocation())).fault.quota == "max_queued"
    await tenant.change(db, "acme", {"max_queued": 9})
    await admitted(db, invocation())
    assert (await refused(db, invocation())).fault.quota == "rate"
    (found,) = await admitted(db, invocation(idempotency_key="k"))
    assert not found.created


async def test_a_faster_rate_does_not_wait_for_what_the_slow_one_owed(db: Database) -> None:
    await tenant.change(db, "acme", {"rate": 0.001, "burst": 1}, make=True)
    await admitted(db, invocation())
    assert isinstance((await refused(db, invocation())).fault, RateLimited)
    await tenant.change(db, "acme", {"rate": 1000.0})
    (row,) = await fetch(db, "SELECT spent, spent_time FROM tenant")
    assert row["spent"] == pytest.approx(1, abs=0.01)  # it is no gift either
    await execute(db, "UPDATE tenant SET spent_time = spent_time - interval '1 s'")
    await admitted(db, invocation())


async def test_a_page_of_tenants_goes_on_where_the_last_one_ended(db: Database) -> None:
    names = [f"t{n}" for n in range(5)] + ["ä b", "Z"]
    for name in names:
        await tenant.change(db, name, {}, make=True)
    found: list[str] = []
    after = ""
    async with db.connection() as connection:
        while True:
            views, after = await tenant.list_tenants(connection, limit=3, after=after)
            found += [view.tenant for view in views]
            assert all(view.create_time < datetime.now(UTC) for view in views)
            if not after:
                break
    assert sorted(found) == sorted(names)
