"""A runner that lives keeps its leases, whatever becomes of the look that usually renews them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest

from holdfast.invoker import caretaker
from holdfast.kit.errors import LedgerUnavailable
from tests.invoker.runner import Runner
from tests.invoker.stand import QUICK, Invoker, ended
from tests.kit.until import until

LONG = 2.5 * QUICK["lease_ttl"]


async def _chat(worker: Runner) -> None:
    """Say something again and again, as a runner whose runs are short does."""
    while True:
        await worker.credit(0)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("chatty", [False, True])
@pytest.mark.parametrize("look", ["fails", "hangs"])
async def test_a_session_outlives_its_ttl_while_the_look_fails(
    door: Invoker, worker: Runner, monkeypatch: pytest.MonkeyPatch, look: str, *, chatty: bool
) -> None:
    looked = 0

    async def no_look(*_: Any, **__: Any) -> Any:
        nonlocal looked
        looked += 1
        if look == "hangs":
            await asyncio.sleep(LONG)
        raise asyncpg.QueryCanceledError("the statement took too long")

    run_id = (await door.invoke()).run.run_id
    held = await worker.take(run_id)
    monkeypatch.setattr(caretaker, "look", no_look)
    await until(lambda: looked > 0)
    talk = asyncio.create_task(_chat(worker)) if chatty else None
    over = time.monotonic() + LONG
    await until(lambda: time.monotonic() > over or bool(worker.revoked), deadline=2 * LONG)
    if talk is not None:
        talk.cancel()
        with suppress(asyncio.CancelledError):
            await talk
    assert worker.revoked == []
    assert (await door.run(run_id)).attempt == 1
    assert worker.held[run_id].epoch == held.epoch
    async with door.parts.db.connection() as connection:
        assert await connection.fetchval(
            "SELECT bool_and(expire_time > clock_timestamp()) FROM runner_session"
        )


async def test_a_renewal_that_is_not_committed_does_not_count(
    door: Invoker, worker: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    care = door.parts.caretaker
    await ended(care.heartbeats, *care.loops)
    (session,) = door.parts.board.sessions()
    real = door.parts.db.transaction

    @asynccontextmanager
    async def lost() -> AsyncIterator[Any]:
        async with real() as connection:
            yield connection
            raise LedgerUnavailable("gone before it was durable")

    await worker.credit(0)
    await until(lambda: session.heard > session.renewed)
    monkeypatch.setattr(door.parts.db, "transaction", lost)
    before = session.renewed
    session.heard = time.monotonic()
    for renewing in (care.look, care.heartbeat):
        session.renewed = before = before - 60.0
        with pytest.raises(LedgerUnavailable):
            await renewing()
        assert session.renewed == before
