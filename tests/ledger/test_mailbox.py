"""A signal that was acknowledged is received once or ends with its run; what may not enter is refused."""

import asyncio
import uuid
from typing import Any

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import (
    Fenced,
    InputRejected,
    InvalidField,
    MailboxFull,
    RunEnded,
    RunNotFound,
    SignalIdReused,
)
from holdfast.ledger import mailbox_view
from holdfast.ledger.cancel import cancel
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Record, Refused, Requeue, Stored
from holdfast.ledger.domain.commit import Charge
from holdfast.ledger.domain.mailbox import MAX_WAITING
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.mailbox import Signalled, signal
from holdfast.ledger.mailbox_view import Signal, load_mail
from holdfast.ledger.retry import retry
from holdfast.ledger.sweep import sweep
from holdfast.ledger.values import InputPolicy, Leased, Outcome, ServedIntent
from tests.support.ledger import (
    Runner,
    admitted,
    contradictions,
    execute,
    fetch,
    finish,
    invocation,
    opened,
)


async def running(db: Database, runner: Runner | None = None, **more: Any) -> Leased:
    """Return a run on a runner."""
    runner = runner or await opened(db)
    (run,) = await admitted(db, invocation(**more), on=runner.idle())
    assert run.lease
    return run.lease


async def say(db: Database, run_id: uuid.UUID, payload: str = '"hi"', **more: Any) -> Signalled:
    """Send a signal as the tenant of the tests."""
    told: dict[str, Any] = {"key": "input", **more}
    return await signal(db, told.pop("tenant", "acme"), run_id, payload=payload.encode(), **told)


async def waiting(db: Database, run_id: uuid.UUID, after: int = 0) -> list[Signal]:
    """Return what waits for a run."""
    async with db.connection() as connection:
        return (await mailbox_view.waiting(connection, [(run_id, after)]))[0]


async def consumed(db: Database, run: Leased, number: int, *ids: str, **more: Any) -> Stored | Refused:
    """Commit a step that has received signals."""
    item = CommitItem(
        run.run_id,
        more.pop("epoch", run.epoch),
        number,
        [Record(f"receive#{number}", b"record")],
        Charge(steps=1),
        consumed=ids,
        **more,
    )
    return (await commit_group(db, [item]))[0]


async def test_signals_wait_in_the_order_of_their_arrival_until_they_are_consumed(db: Database) -> None:
    run = await running(db)
    told = [await say(db, run.run_id, f'"{n}"', signal_id=f"s{n}") for n in range(3)]
    assert [one.signal.sequence for one in told] == [1, 2, 3]
    assert [one.payload for one in await waiting(db, run.run_id)] == [b'"0"', b'"1"', b'"2"']
    assert await consumed(db, run, 1, "s1") == Stored(RunStatus.RUNNING, cancel_requested=False)
    assert [one.signal_id for one in await waiting(db, run.run_id)] == ["s0", "s2"]
    assert [one.signal_id for one in await waiting(db, run.run_id, after=1)] == ["s2"]
    assert await contradictions(db) == []


async def test_the_holder_of_the_run_is_named_so_that_it_can_be_told(db: Database) -> None:
    runner = await opened(db)
    run = await running(db, runner)
    told = await say(db, run.run_id)
    assert told.holder
    assert (told.holder.session_id, told.holder.epoch) == (runner.session_id, run.epoch)
    (queued,) = await admitted(db, invocation())
    assert (await say(db, queued.run_id)).holder is None


async def test_a_repeated_signal_is_the_same_one_even_after_it_was_consumed(db: Database) -> None:
    run = await running(db)
    first = await say(db, run.run_id, signal_id="s")
    again = await say(db, run.run_id, signal_id="s")
    assert (again.signal, again.repeated, first.repeated) == (first.signal, True, False)
    await consumed(db, run, 1, "s")
    assert (await say(db, run.run_id, signal_id="s")).repeated
    assert await waiting(db, run.run_id) == []
    for other in ({"payload": '"bye"'}, {"key": "decision"}, {"urgent": True}):
        with pytest.raises(SignalIdReused) as refusal:
            await say(db, run.run_id, signal_id="s", **other)
        assert refusal.value.facts["signal_id"] == "s"
    assert await contradictions(db) == []


async def test_the_same_call_many_times_at_once_is_one_signal(db: Database) -> None:
    run = await running(db)
    told = await asyncio.gather(*(say(db, run.run_id, signal_id="s") for _ in range(8)))
    assert [one.signal.sequence for one in told] == [1] * 8
    assert sum(not one.repeated for one in told) == 1
    many = await asyncio.gather(*(say(db, run.run_id) for _ in range(8)))
    assert sorted(one.signal.sequence for one in many) == list(range(2, 10))
    assert await contradictions(db) == []


async def test_a_signal_is_consumed_once_whatever_is_sent_again(db: Database) -> None:
    run = await running(db)
    await say(db, run.run_id, signal_id="s")
    for _ in range(2):  # a commit whose answer was lost
        assert isinstance(await consumed(db, run, 1, "s"), Stored)
    for ids in (("s",), ("never",), ("s", "s")):
        refusal = await consumed(db, run, 2, *ids)
        assert isinstance(refusal, Refused)
        assert isinstance(refusal.fault, InvalidField)
        assert not refusal.retryable
    await say(db, run.run_id, signal_id="t")
    assert isinstance(await consumed(db, run, 2, "t", "t"), Refused)
    assert isinstance(await consumed(db, run, 2, "t"), Stored)
    assert await contradictions(db) == []


async def test_a_bad_consumption_refuses_no_other_commit_of_its_group(db: Database) -> None:
    runner = await opened(db)
    runs = [await running(db, runner) for _ in range(3)]
    for run in runs:
        await say(db, run.run_id, signal_id="s")
    items = [
        CommitItem(run.run_id, run.epoch, 1, consumed=("s" if place != 1 else "never",))
        for place, run in enumerate(runs)
    ]
    kinds = [type(answer) for answer in await commit_group(db, items)]
    assert kinds == [Stored, Refused, Stored]
    assert [len(await waiting(db, run.run_id)) for run in runs] == [0, 1, 0]
    assert await contradictions(db) == []


async def test_a_runner_without_the_lease_consumes_nothing(db: Database) -> None:
    runner = await opened(db)
    run = await running(db, runner)
    await say(db, run.run_id, signal_id="s")
    await runner.expire()
    await sweep(db)
    (again,) = await (await opened(db)).take()
    assert (again.run_id, again.mail_last) == (run.run_id, 1)
    refusal = await consumed(db, run, 1, "s")
    assert isinstance(refusal, Refused)
    assert isinstance(refusal.fault, Fenced)
    (found,) = [page async for page in load_mail(db, run.run_id, again.epoch)]
    assert ([one.signal_id for one in found.signals], found.last, found.more) == (["s"], 1, False)
    with pytest.raises(Fenced):
        _ = [page async for page in load_mail(db, run.run_id, run.epoch)]
    assert isinstance(await consumed(db, again, 1, "s"), Stored)
    assert await contradictions(db) == []


@pytest.mark.parametrize("how", ["commit", "consuming commit", "cancel", "attempts"])
async def test_an_ended_run_takes_nothing_more_and_keeps_nothing(db: Database, how: str) -> None:
    runner = await opened(db)
    run = await running(db, runner, max_attempts=1)
    for signal_id in ("s", "t"):
        await say(db, run.run_id, signal_id=signal_id)
    status = RunStatus.SUCCEEDED
    if how == "commit":
        await finish(db, run)
    elif how == "consuming commit":
        await consumed(db, run, 1, "s", move=Outcome(status))
    elif how == "cancel":
        status = RunStatus.CANCELLED
        await commit_group(db, [CommitItem(run.run_id, run.epoch, 1, move=Requeue(blameless=True))])
        await cancel(db, "acme", run.run_id)
    else:
        status = RunStatus.DEAD_LETTERED
        await runner.expire()
        await sweep(db)
    with pytest.raises(RunEnded) as refusal:
        await say(db, run.run_id)
    assert refusal.value.facts["status"] == status.name
    assert await fetch(db, "SELECT FROM mailbox") == []
    assert await contradictions(db) == []


async def test_a_signal_races_the_end_and_is_acknowledged_before_it_or_refused(db: Database) -> None:
    runner = await opened(db)
    for round_ in range(20):
        run = await running(db, runner)
        first = round_ % 2  # both ways out: the quick one, and the one that clears a mailbox
        if first:
            await say(db, run.run_id, signal_id="first")
        told, ended = await asyncio.gather(
            say(db, run.run_id, signal_id="s"), finish(db, run), return_exceptions=True
        )
        assert isinstance(ended, Stored), ended
        assert isinstance(told, Signalled | RunEnded), told
        (row,) = await fetch(db, "SELECT mail_last FROM run_state WHERE run_id = $1", run.run_id)
        assert row["mail_last"] == first + isinstance(told, Signalled)
        assert await fetch(db, "SELECT FROM mailbox") == []
        assert await contradictions(db) == []


async def test_an_end_that_found_a_signal_at_the_last_moment_clears_it(db: Database) -> None:
    """The quick end waits for the signal's lock, and then it must not be quick."""
    run = await running(db)
    async with db.transaction() as connection:
        await connection.execute("SELECT FROM run_state WHERE run_id = $1 FOR NO KEY UPDATE", run.run_id)
        ending = asyncio.create_task(finish(db, run))
        while not await fetch(db, "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            assert not ending.done()
        await connection.execute("UPDATE run_state SET mail_last = 1, mail_waiting = 1, mail_bytes = 9")
        await connection.execute(
            "INSERT INTO mailbox VALUES ($1, 's', 1, 'input', false, '', '1', 9)", run.run_id
        )
    assert isinstance(await ending, Stored)
    assert await fetch(db, "SELECT FROM mailbox") == []
    assert await contradictions(db) == []


async def test_a_mailbox_is_bounded_and_takes_more_when_some_was_received(db: Database) -> None:
    run = await running(db)
    large = f'"{"x" * (1 << 20)}"'
    for n in range(3):
        await say(db, run.run_id, large, signal_id=f"s{n}")
    with pytest.raises(MailboxFull) as refusal:
        await say(db, run.run_id, large)
    assert refusal.value.facts["waiting"] == "3"
    await consumed(db, run, 1, "s0")
    await say(db, run.run_id, large)
    assert len(await waiting(db, run.run_id)) == 1  # a page has a bound
    pages = [page async for page in load_mail(db, run.run_id, run.epoch)]
    assert [len(page.signals) for page in pages] == [1, 1, 1]
    assert [page.more for page in pages] == [True, True, False]


async def test_a_thousand_signals_may_wait_and_not_one_more(db: Database) -> None:
    run = await running(db)
    await execute(
        db,
        """INSERT INTO mailbox SELECT $1, n::text, n, 'input', false, '', '1', 9
           FROM generate_series(1, $2::int - 1) AS n""",
        run.run_id,
        MAX_WAITING,
    )
    await execute(
        db,
        "UPDATE run_state SET mail_last = $1::int, mail_waiting = $1::int, mail_bytes = 9 * $1::int",
        MAX_WAITING - 1,
    )
    await say(db, run.run_id, signal_id="last")
    with pytest.raises(MailboxFull):
        await say(db, run.run_id)
    assert (await say(db, run.run_id, signal_id="last")).repeated
    pages = [page async for page in load_mail(db, run.run_id, run.epoch)]
    assert [one.sequence for page in pages for one in page.signals] == list(range(1, MAX_WAITING + 1))
    assert await contradictions(db) == []


async def test_unknown_and_foreign_runs_are_not_found(db: Database) -> None:
    run = await running(db)
    for tenant, run_id in (("umbrella", run.run_id), ("acme", uuid.uuid4())):
        with pytest.raises(RunNotFound):
            await say(db, run_id, tenant=tenant)
    assert await waiting(db, run.run_id) == []


async def test_input_is_treated_as_the_agent_that_runs_wants(db: Database) -> None:
    for version, policy in (("1", InputPolicy.INTERRUPT), ("2", InputPolicy.REJECT)):
        runner = await opened(db, (ServedIntent("count", version, on_input=policy),))
        run = await running(db, runner)
        assert not (await say(db, run.run_id, key="decision")).signal.urgent
        assert (await say(db, run.run_id, key="interrupt", urgent=True)).signal.urgent
        if policy is InputPolicy.REJECT:
            with pytest.raises(InputRejected):
                await say(db, run.run_id)
        else:
            assert (await say(db, run.run_id)).signal.urgent
    # Of a run that nobody has taken the agent seen last speaks; a policy may change with its agent.
    (queued,) = await admitted(db, invocation())
    with pytest.raises(InputRejected):
        await say(db, queued.run_id)
    await opened(db, (ServedIntent("count", "2"),))
    assert not (await say(db, queued.run_id)).signal.urgent


async def test_a_queued_run_gets_what_was_sent_to_it_with_its_lease(db: Database) -> None:
    (queued,) = await admitted(db, invocation())
    await say(db, queued.run_id, signal_id="early")
    runner = await opened(db)
    (run,) = await runner.take()
    assert (run.last_commit, run.mail_last) == (0, 1)
    assert (await runner.open())[0].mail_last == 1
    async with db.connection() as connection:
        (mail,) = await mailbox_view.mail(connection, [runner.session_id])
        assert await mailbox_view.mail(connection, [uuid.uuid4()]) == []
    assert (mail.run_id, mail.epoch, mail.last) == (run.run_id, run.epoch, 1)
    await consumed(db, run, 1, "early")
    async with db.connection() as connection:
        assert await mailbox_view.mail(connection, [runner.session_id]) == []


async def test_a_run_that_is_retried_goes_on_counting_its_signals(db: Database) -> None:
    runner = await opened(db)
    run = await running(db, runner)
    await say(db, run.run_id, signal_id="lost with the end")
    await finish(db, run, RunStatus.FAILED)
    await retry(db, "acme", run.run_id)
    (again,) = await runner.take()
    assert (await say(db, run.run_id)).signal.sequence == 2
    (page,) = [page async for page in load_mail(db, run.run_id, again.epoch)]
    assert ([one.sequence for one in page.signals], page.last) == ([2], 2)
    assert await contradictions(db) == []
