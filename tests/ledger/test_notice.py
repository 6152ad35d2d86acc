"""Notices are gathered, sent together, and never stand in the way of work."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from holdfast.embedded import EmbeddedPostgres
from holdfast.kit.db import Database
from holdfast.ledger.notice import ENDED, READY, Notices, keys_of, payloads
from tests.support.ear import Ear
from tests.support.ledger import open_ledger


async def test_keys_sent_in_a_row_arrive_in_one_payload(db: Database) -> None:
    ear, notices = Ear(db, READY), Notices(db)
    await asyncio.wait_for(ear.listener.listening.wait(), 10)
    for n in range(50):
        notices.send(READY, [f"pool-{n % 10}"])
    notices.send(ENDED, ["run"])
    assert sorted(await ear.keys(10)) == [f"pool-{n}" for n in range(10)]
    assert len(ear.heard) == 1
    await notices.close()
    await ear.listener.close()


async def test_more_keys_than_fit_take_several_payloads(db: Database) -> None:
    ear, notices = Ear(db, ENDED), Notices(db)
    await asyncio.wait_for(ear.listener.listening.wait(), 10)
    keys = [f"{n:036d}" for n in range(1000)]
    notices.send(ENDED, keys)
    assert await ear.keys(1000) == keys
    assert len(ear.heard) == 5
    await notices.close()
    await ear.listener.close()


async def test_a_ledger_that_is_away_costs_notices_and_nothing_else(
    mortal_postgres: EmbeddedPostgres,
) -> None:
    async with open_ledger(mortal_postgres.url()) as db:
        await mortal_postgres.stop()
        notices = Notices(db)
        notices.send(READY, ["pool"])
        async with asyncio.timeout(20):
            await notices.close()


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), min_size=1, max_size=300)
    )
)
def test_payloads_hold_every_key_and_fit(keys: list[str]) -> None:
    joined = payloads(keys)
    assert all(len(payload.encode()) < 8000 for payload in joined)
    assert [key for payload in joined for key in keys_of(payload)] == keys
