"""A runner that lives keeps its leases, whatever becomes of the look that usually renews them."""

import asyncio
import time
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from holdfast.invoker import caretaker
from tests.invoker.runner import Runner
from tests.invoker.stand import QUICK, Invoker
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
