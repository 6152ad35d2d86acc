"""Whoever has the turn stores behind the last key; whoever has lost it stores nothing."""

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import InvalidField, StreamProtocol
from holdfast.ledger import batch, batch_source
from holdfast.ledger.batch import NewBatch, NewItem
from holdfast.ledger.batch_source import Turn
from holdfast.ledger.batch_view import BatchView
from holdfast.ledger.domain.batch import BatchStatus
from holdfast.ledger.look import look
from tests.support.batch import counts, seen
from tests.support.ledger import execute, fetch


async def sourced(db: Database, key: str = "k", **more: Any) -> BatchView:
    new = NewBatch(
        uuid.uuid4(), "acme", "count", idempotency_key=key, fingerprint=b"f", spec=b"s", sourced=True, **more
    )
    return (await batch.create(db, new)).batch


async def take(db: Database) -> Turn:
    (turn,) = await batch_source.take(db, 4)
    return turn


def items(*keys: str) -> list[NewItem]:
    return [NewItem(key, b"{}") for key in keys]


async def silent(db: Database) -> None:
    """Let whoever has a turn have been silent for too long."""
    await execute(db, "UPDATE batch_source SET look_time = now()")


async def test_a_turn_is_had_by_one_and_ends_with_the_upload(db: Database) -> None:
    which = await sourced(db, start_when_uploaded=True)
    async with db.connection() as connection:
        assert (await look(connection)).sourced
    taken = await asyncio.gather(*(batch_source.take(db, 4) for _ in range(4)))
    (turn,) = [turn for turns in taken for turn in turns]
    assert (turn.batch_id, turn.last_key, turn.uploaded, turn.spec) == (which.batch_id, None, 0, b"s")
    assert await batch_source.store(db, turn, items("a", "b"), "b")
    assert await batch_source.store(db, turn, items("c"), "c")
    assert await counts(db, which) == {"PENDING": 3}
    assert await batch_source.finish(db, turn)
    assert (await seen(db, which)).status is BatchStatus.RUNNING
    assert not await batch_source.finish(db, turn)
    assert not await batch_source.store(db, turn, items("d"), "d")
    assert await fetch(db, "SELECT FROM batch_source") == []
    async with db.connection() as connection:
        assert not (await look(connection)).sourced


async def test_a_turn_that_was_lost_stores_nothing_and_the_next_goes_on_behind_it(db: Database) -> None:
    which = await sourced(db)
    first = await take(db)
    assert await batch_source.store(db, first, items("a"), "a")
    assert await batch_source.take(db, 4) == []
    await silent(db)
    second = await take(db)
    assert (second.last_key, second.uploaded) == ("a", 1)
    assert not await batch_source.store(db, first, items("b"), "b")
    assert not await batch_source.finish(db, first)
    await batch_source.put_off(db, first, "nobody hears this", timedelta(hours=1))
    await batch_source.hold(db, [first.turn])
    assert await batch_source.store(db, second, items("b"), "b")
    assert await batch_source.finish(db, second)
    done = await seen(db, which)
    assert (done.status, done.uploaded, done.reason) == (BatchStatus.READY, 2, "")


async def test_what_fails_waits_and_says_why_until_something_is_stored(db: Database) -> None:
    which = await sourced(db)
    for n in range(3):
        turn = await take(db)
        assert turn.failures == n
        await batch_source.put_off(db, turn, "It is away.", timedelta(hours=1))
        assert (await seen(db, which)).reason == "It is away."
        assert not await batch_source.store(db, turn, items("a"), "a"), "the turn is over"
        assert await batch_source.take(db, 4) == [], "it waits"
        await silent(db)
    turn = await take(db)
    assert await batch_source.store(db, turn, items("a"), "a")
    assert (await seen(db, which)).reason == ""
    await batch_source.leave(db, [turn.turn])
    assert (await take(db)).failures == 0


async def test_a_key_twice_stores_nothing_of_its_chunk(db: Database) -> None:
    which = await sourced(db)
    turn = await take(db)
    assert await batch_source.store(db, turn, items("a"), "a")
    with pytest.raises(InvalidField):
        await batch_source.store(db, turn, items("b", "a"), "a")
    assert await counts(db, which) == {"PENDING": 1}


async def test_a_cancelled_batch_is_read_no_further_and_nothing_is_sent_for_it(
    db: Database,
) -> None:
    which = await sourced(db)
    turn = await take(db)
    for sent in (
        batch.append(db, "acme", which.batch_id, 0, items("mine")),
        batch.complete(db, "acme", which.batch_id, 0),
    ):
        with pytest.raises(StreamProtocol):
            await sent
    await batch.cancel(db, "acme", which.batch_id, "no longer")
    assert not await batch_source.store(db, turn, items("a"), "a")
    assert await fetch(db, "SELECT FROM batch_source") == []


async def test_the_same_key_has_one_source(db: Database) -> None:
    made = await asyncio.gather(*(sourced(db) for _ in range(4)))
    assert len({each.batch_id for each in made}) == 1
    assert len(await fetch(db, "SELECT FROM batch_source")) == 1
