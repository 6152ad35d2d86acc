"""What is shown of the whole ledger is true, and costs the same however much is in it."""

import re
from datetime import UTC, datetime, timedelta

from holdfast.kit.db import Database
from holdfast.ledger import gauge, tenant
from holdfast.ledger.domain.breaker import BreakerState
from holdfast.ledger.domain.tenant import intent_caps
from tests.ledger.test_plans import large, nodes, plan_of
from tests.support.approval import ask, running
from tests.support.ledger import admitted, execute, finish, invocation, opened
from tests.support.outbox import make_destination, stage, staged

__all__ = ["large"]

STATEMENTS = {name: text for name, text in vars(gauge).items() if name.isupper() and isinstance(text, str)}


async def test_the_queues_whose_turn_comes_are_shown_with_their_oldest(db: Database) -> None:
    await admitted(db, *(invocation(tenant="acme") for _ in range(3)), invocation(tenant="tiny"))
    await execute(db, "UPDATE run_state SET create_time = now() - interval '1 minute' WHERE tenant = 'acme'")
    async with db.connection() as connection:
        depths = {each.tenant: each for each in await gauge.queue_depths(connection)}
    assert {tenant: each.queued for tenant, each in depths.items()} == {"acme": 3, "tiny": 1}
    assert depths["acme"].intent == "count"
    assert 60 <= (depths["acme"].oldest_s or 0) < 90
    assert (depths["tiny"].oldest_s or 99) < 30


async def test_a_tenant_at_its_cap_waits_for_itself_and_is_not_shown(db: Database) -> None:
    runner = await opened(db)
    await admitted(db, invocation(tenant="acme"))
    await execute(db, "UPDATE tenant SET max_in_flight = 1")
    await admitted(db, invocation(tenant="acme"))
    assert len(await runner.take(2)) == 1
    async with db.connection() as connection:
        assert await gauge.queue_depths(connection) == []


async def test_what_is_held_back_waits_for_no_runner_and_is_not_shown(db: Database) -> None:
    await tenant.change(db, "acme", {"intent_caps": intent_caps({"count": 1})}, make=True)
    runner = await opened(db)
    await admitted(db, invocation(), invocation())
    (run,) = await runner.take(2)
    async with db.connection() as connection:
        assert await gauge.queue_depths(connection) == []
    await finish(db, run)
    async with db.connection() as connection:
        assert [each.queued for each in await gauge.queue_depths(connection)] == [1]


async def test_a_timer_that_nobody_acts_on_is_late(db: Database) -> None:
    async with db.connection() as connection:
        assert await gauge.timer_lag(connection) == 0
    await admitted(db, invocation())
    await execute(db, "UPDATE timer SET due_time = now() - interval '5 minutes'")
    async with db.connection() as connection:
        assert 300 <= await gauge.timer_lag(connection) < 330


async def test_undecided_gates_are_counted_and_their_time_is_watched(db: Database) -> None:
    run = await running(db)
    await ask(db, run, "review")
    async with db.connection() as connection:
        assert await gauge.approvals_waiting(connection) == gauge.Waiting(1, 0.0)
    await execute(db, "UPDATE approval SET next_time = now() - interval '2 minutes'")
    async with db.connection() as connection:
        waiting = await gauge.approvals_waiting(connection)
    assert waiting.count == 1
    assert 120 <= waiting.late_s < 150


async def test_due_effects_are_counted_by_how_they_are_sent_and_those_of_later_are_not(db: Database) -> None:
    for name, url in (("web", "https://a.example/x"), ("rpc", "grpcs://b.example:443/p.S/M")):
        await make_destination(db, name, url=url)
    later = datetime.now(UTC) + timedelta(hours=1)
    await stage(db, staged("web"), staged("web"), staged("rpc"), staged("web", not_before=later))
    async with db.connection() as connection:
        due = {each.scheme: each.due for each in await gauge.due_effects(connection)}
    assert due == {"https": 2, "grpcs": 1}


async def test_breakers_that_are_not_closed_are_counted_by_state(db: Database) -> None:
    for name in ("a", "b", "c"):
        await make_destination(db, name)
    await execute(
        db,
        """UPDATE destination_state s SET breaker = CASE d.name WHEN 'a' THEN 2 WHEN 'b' THEN 3 ELSE 1 END
           FROM destination d WHERE d.destination_id = s.destination_id""",
    )
    async with db.connection() as connection:
        assert await gauge.tripped_breakers(connection) == {BreakerState.OPEN: 1, BreakerState.HALF_OPEN: 1}


async def test_no_figure_reads_a_whole_table(large: Database) -> None:
    await execute(
        large,
        """INSERT INTO approval (approval_id, tenant, run_id, step, intent, requester, title, payload, gate,
                                 status, change, create_time, update_time, deadline_time, next_time)
           SELECT gen_random_uuid(), 'fill-1', md5(n::text)::uuid, 's', 'count', '', '', '1', '{}', 1, n,
                  now(), now(), now(), now() FROM generate_series(1, 20000) AS n""",
    )
    await execute(large, "ANALYZE approval")
    for name, statement in STATEMENTS.items():
        plan = await plan_of(large, statement)
        whole = {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"}
        assert whole <= {"effect_due"}, name  # which is empty here: reading all is right
    queues = [n for n in nodes(await plan_of(large, gauge.QUEUES)) if n.get("Relation Name") == "tenant_pool"]
    assert [node.get("Index Name") for node in queues] == ["tenant_pool_open"], "the ring's own index"


def test_every_count_stops_somewhere() -> None:
    for name, text in STATEMENTS.items():
        assert not re.search(r"count\(\*\)[^()]*FROM (?!\()", text), name
