"""Nothing acknowledged is lost and nothing lands twice, whoever dies when."""

import asyncio
import os
import signal

import grpc
import pytest

from holdfast.embedded import EmbeddedPostgres
from holdfast.kit.db import Database
from holdfast.v1.checkpoint_service_pb2 import CommitAnswer
from tests.support.checkpoint import PATIENCE, checkpoint_process, message, reason_of, reasons, wire
from tests.support.commit import Floor, open_ledger


@pytest.mark.parametrize(
    ("point", "stored"),
    [("checkpoint.before_commit", 0), ("checkpoint.after_commit", 1), ("checkpoint.after_ack", 1)],
)
async def test_a_commit_is_settled_by_sending_it_again_to_another_process(
    database_url: str, floor: Floor, point: str, stored: int
) -> None:
    (run,) = await floor.lease()
    commit = message(run, 1, "fetch", events=2)
    async with (
        checkpoint_process(database_url, HOLDFAST_CRASH_AT=point) as doomed,
        doomed.stub() as stub,
        wire(stub) as stream,
    ):
        await stream.send(commit)
        assert await doomed.ended() == -signal.SIGKILL
    assert (await floor.row(run.run_id))["last_commit"] == stored
    async with checkpoint_process(database_url) as other, other.stub() as stub, wire(stub) as stream:
        assert reasons(await stream.ask(commit)) == ["COMMITTED"]
    assert len(await floor.fetch("SELECT FROM checkpoint")) == 1


async def test_an_end_survives_the_death_of_the_process_that_stored_it(
    database_url: str, floor: Floor
) -> None:
    (run,) = await floor.lease()
    end = message(run, 1, "last", events=1, end=True)
    async with (
        checkpoint_process(database_url, HOLDFAST_CRASH_AT="checkpoint.after_commit") as doomed,
        doomed.stub() as stub,
        wire(stub) as stream,
    ):
        await stream.send(end)
        await doomed.ended()
    async with checkpoint_process(database_url) as other, other.stub() as stub, wire(stub) as stream:
        assert reasons(await stream.ask(end)) == ["COMMITTED"]
    assert len(await floor.fetch("SELECT FROM run_outcome")) == 1


async def test_the_third_pass_of_a_point_is_the_one_that_kills(database_url: str, floor: Floor) -> None:
    (run,) = await floor.lease()
    async with (
        checkpoint_process(database_url, HOLDFAST_CRASH_AT="checkpoint.before_commit:3") as doomed,
        doomed.stub() as stub,
        wire(stub) as stream,
    ):
        assert (
            reasons([*await stream.ask(message(run, 1)), *await stream.ask(message(run, 2))])
            == ["COMMITTED"] * 2
        )
        await stream.send(message(run, 3))
        assert await doomed.ended() == -signal.SIGKILL


async def test_sigterm_answers_what_was_accepted_and_sends_the_runner_elsewhere(
    database_url: str, floor: Floor
) -> None:
    runs = await floor.lease(50)
    async with checkpoint_process(database_url) as checkpoint, checkpoint.stub() as stub:
        async with wire(stub) as stream:
            await stream.ask(message(runs[0], 1))
            await stream.send(*(message(run, 2 if run is runs[0] else 1, "k") for run in runs))
            checkpoint.process.terminate()
            answered: list[str] = []
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read_to_the_end(answered)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert reason_of(caught.value) == "SHUTTING_DOWN"
        assert await checkpoint.ended() == 0
    stored = await floor.fetch("SELECT FROM checkpoint")
    # Either the message was taken whole before the signal or it was not taken at all.
    assert answered == ["COMMITTED"] * len(stored)
    assert len(answered) in {0, 50}


async def test_an_idle_stream_does_not_hold_up_the_end(database_url: str, floor: Floor) -> None:
    (run,) = await floor.lease()
    async with (
        checkpoint_process(database_url) as checkpoint,
        checkpoint.stub() as stub,
        wire(stub) as stream,
    ):
        await stream.ask(message(run, 1))
        checkpoint.process.terminate()
        assert await checkpoint.ended() == 0


async def test_while_postgresql_is_away_commits_are_refused_for_now_and_then_land(
    mortal_postgres: EmbeddedPostgres,
) -> None:
    url = mortal_postgres.url()
    async with open_ledger(url) as db:
        (run,) = await (await Floor(db).open()).lease()
    async with checkpoint_process(url) as checkpoint, checkpoint.stub() as stub, wire(stub) as stream:
        os.kill(mortal_postgres.pid, signal.SIGKILL)
        number, refused, healed = 1, 0, False
        async with asyncio.timeout(PATIENCE):
            # Its backends outlive it by a moment, so first there may be commits that land.
            while not healed:
                (answer,) = await stream.ask(message(run, number))
                if answer.HasField("refused"):
                    refused += 1
                    assert (answer.refused.reason, answer.refused.retryable) == ("LEDGER_UNAVAILABLE", True)
                    await asyncio.sleep(0.05)  # what a runner does between two tries
                else:
                    number += 1
                    healed = refused > 0
    async with open_ledger(url) as db:
        assert (await Floor(db).row(run.run_id))["last_commit"] == number - 1


async def test_a_killed_backend_loses_nothing_that_was_acknowledged(database_url: str, db: Database) -> None:
    floor = await Floor(db).open()
    runs = await floor.lease(16)
    acknowledged = 0
    async with (
        checkpoint_process(database_url) as checkpoint,
        checkpoint.stub() as stub,
        wire(stub) as stream,
    ):
        for number in range(1, 9):
            waiting = [message(run, number, f"k{number}") for run in runs]
            while waiting:
                killing = floor.fetch(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'holdfast-checkpoint' AND state IS NOT NULL"
                )
                answers: list[CommitAnswer] = (await asyncio.gather(stream.ask(*waiting), killing))[0]
                pairs = list(zip(waiting, answers, strict=True))
                waiting = [commit for commit, answer in pairs if answer.HasField("refused")]
                assert all(answer.refused.retryable for _, answer in pairs if answer.HasField("refused"))
                acknowledged += len(pairs) - len(waiting)
    assert acknowledged == len(await floor.fetch("SELECT FROM checkpoint")) == 128
