"""What is staged is durable with its cause, once per idempotency key, and in the order of commits."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import DestinationNotFound, InvalidField
from holdfast.ledger import outbox
from holdfast.ledger.outbox import StagedEffect
from tests.support.outbox import make_destination, open_database, staged


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url) as db:
        yield db


async def _stage(db: Database, effects: Sequence[StagedEffect]) -> None:
    async with db.transaction() as connection:
        await outbox.stage(connection, effects)


async def _stage_and_fail(db: Database, effects: Sequence[StagedEffect]) -> None:
    async with db.transaction() as connection:
        await outbox.stage(connection, effects)
        raise InvalidField("The cause did not land.")


async def test_effects_without_order_are_due_at_once_and_those_of_a_key_wait_behind_its_head(
    db: Database,
) -> None:
    await make_destination(db, "letters")
    effects = [staged("letters"), *(staged("letters", ordering_key="a") for _ in range(3))]
    async with db.transaction() as connection:
        await outbox.stage(connection, effects)
        due = [
            row["effect_id"]
            for row in await connection.fetch("SELECT effect_id FROM effect_due ORDER BY seq")
        ]
        waiting = await connection.fetch("SELECT effect_id FROM effect_waiting ORDER BY seq")
        head = await connection.fetchval("SELECT head FROM effect_lane")
    assert due == [effects[0].effect_id, effects[1].effect_id]
    assert [row["effect_id"] for row in waiting] == [effects[2].effect_id, effects[3].effect_id]
    assert head == effects[1].effect_id


async def test_a_large_group_is_numbered_in_the_order_given(db: Database) -> None:
    await make_destination(db, "letters")
    effects = [staged("letters", ordering_key=str(n % 7)) for n in range(500)]
    async with db.transaction() as connection:
        await outbox.stage(connection, effects)
        rows = await connection.fetch("SELECT effect_id FROM effect ORDER BY seq")
    assert [row["effect_id"] for row in rows] == [effect.effect_id for effect in effects]


async def test_an_effect_rolled_back_with_its_cause_never_existed(db: Database) -> None:
    await make_destination(db, "letters")
    with pytest.raises(InvalidField):
        await _stage_and_fail(db, [staged("letters", ordering_key="a") for _ in range(2)])
    async with db.connection() as connection:
        for table in ("effect", "effect_due", "effect_lane", "effect_key", "effect_waiting"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_staging_the_same_intent_again_changes_nothing(db: Database) -> None:
    await make_destination(db, "letters")
    effect = staged("letters", key="once")
    for again in (effect, staged("letters", key="once")):
        await _stage(db, [effect, again])
    async with db.connection() as connection:
        assert await connection.fetchval("SELECT array_agg(effect_id) FROM effect") == [effect.effect_id]
        assert await connection.fetchval("SELECT count(*) FROM effect_due") == 1


@pytest.mark.parametrize(
    "other",
    [{"body": b'"other"'}, {"ordering_key": "x"}, {"destination": "faxes"}],
    ids=lambda o: next(iter(o)),
)
async def test_a_key_that_stands_for_another_intent_is_refused(db: Database, other: dict[str, Any]) -> None:
    await make_destination(db, "letters")
    await make_destination(db, "faxes")
    await _stage(db, [staged("letters", key="once")])
    different = staged(**({"destination": "letters", "key": "once"} | other))
    with pytest.raises(InvalidField) as refusal:
        await _stage(db, [different])
    assert refusal.value.violations[0].field == "effects.idempotency_key"
    assert refusal.value.facts["effect_id"] == str(different.effect_id)


async def test_a_key_is_the_tenants_own(db: Database) -> None:
    for tenant in ("north", "south"):
        await make_destination(db, "letters", tenant=tenant)
    async with db.transaction() as connection:
        await outbox.stage(connection, [staged("letters", key="k", tenant="north", body=b"1")])
        await outbox.stage(connection, [staged("letters", key="k", tenant="south", body=b"2")])
        assert await connection.fetchval("SELECT count(*) FROM effect") == 2


async def test_an_effect_id_that_is_taken_is_refused(db: Database) -> None:
    await make_destination(db, "letters")
    effect = staged("letters")
    twin = staged("letters", effect_id=effect.effect_id, key="another")
    with pytest.raises(InvalidField, match="effect_id"):
        await _stage(db, [effect, twin])
    await _stage(db, [effect])
    with pytest.raises(InvalidField, match="effect_id"):
        await _stage(db, [twin])


async def test_an_unknown_destination_is_refused_also_if_another_tenant_has_it(db: Database) -> None:
    await make_destination(db, "letters", tenant="north")
    with pytest.raises(DestinationNotFound) as refusal:
        await _stage(db, [staged("letters", tenant="south", run_id=uuid.UUID(int=7))])
    assert refusal.value.facts["run_id"] == str(uuid.UUID(int=7))


async def test_the_order_of_numbers_in_a_lane_is_the_order_of_commits(db: Database) -> None:
    await make_destination(db, "letters")
    first, second = staged("letters", ordering_key="a"), staged("letters", ordering_key="a")
    async with db.transaction() as early:
        await outbox.stage(early, [first])

        async def stage_second() -> None:
            async with db.transaction() as late:
                await outbox.stage(late, [second])

        other = asyncio.create_task(stage_second())
        while not await early.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            assert not other.done()
    await other
    async with db.connection() as connection:
        rows = await connection.fetch("SELECT effect_id FROM effect ORDER BY seq")
        assert [row["effect_id"] for row in rows] == [first.effect_id, second.effect_id]
        assert await connection.fetchval("SELECT effect_id FROM effect_waiting") == second.effect_id


async def test_the_same_intent_staged_by_many_at_once_becomes_one_effect(db: Database) -> None:
    await make_destination(db, "letters")

    async def stage_it() -> None:
        await _stage(db, [staged("letters", key="once", ordering_key="a")])

    await asyncio.gather(*(stage_it() for _ in range(20)))
    async with db.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM effect") == 1
        assert await connection.fetchval("SELECT count(*) FROM effect_due") == 1
        assert await connection.fetchval("SELECT count(*) FROM effect_waiting") == 0


async def test_groups_that_touch_the_same_lanes_in_any_order_do_not_deadlock(db: Database) -> None:
    await make_destination(db, "letters")

    async def stage_group(keys: list[str]) -> None:
        await _stage(db, [staged("letters", ordering_key=key) for key in keys])

    keys = [str(n) for n in range(20)]
    await asyncio.gather(*(stage_group(keys[::step]) for step in (1, -1) * 10))
    async with db.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM effect_due") == 20
        assert await connection.fetchval("SELECT count(*) FROM effect_waiting") == 380
