import asyncio

from holdfast.agent import App, Run
from holdfast.v1.checkpoint_pb2 import Commit
from tests.runner.conftest import Runner
from tests.runner.platform import Platform


def _app() -> tuple[App, list[int]]:
    app = App("count")
    executed: list[int] = []

    async def count(number: int) -> int:
        executed.append(number)
        return number

    @app.agent("count")
    async def counts(run: Run) -> int:
        return sum([await run.step(count, number) for number in range(4)])

    return app, executed


async def test_commits_lost_with_their_stream_are_sent_again_under_the_same_number(
    platform: Platform, runner: Runner
) -> None:
    app, executed = _app()
    run = platform.add("count")
    lost: list[Commit] = []

    def fate(commit: Commit) -> str:
        if commit.number == 2 and not lost:
            lost.append(commit)
            return "lose"
        return "commit"

    platform.fate = fate
    async with runner(app):
        platform.lease(run)
        await platform.until(lambda: bool(lost))
        await platform.stop()
        await platform.start(platform.address)
        await run.moved.wait()
    assert executed == [0, 1, 2, 3]
    assert run.outcome.result.number_value == 6
    assert [commit.number for commit in platform.received].count(2) == 2


async def test_a_retryable_refusal_is_sent_again(platform: Platform, runner: Runner) -> None:
    app, executed = _app()
    run = platform.add("count")
    refused: list[int] = []

    def fate(commit: Commit) -> str:
        if commit.number == 1 and len(refused) < 3:
            refused.append(1)
            return "retry"
        return "commit"

    platform.fate = fate
    async with runner(app):
        platform.lease(run)
        await run.moved.wait()
    assert executed == [0, 1, 2, 3]


async def test_a_fenced_run_is_abandoned_silently(platform: Platform, runner: Runner) -> None:
    app, executed = _app()
    run = platform.add("count")
    platform.fate = lambda commit: "FENCED" if commit.number == 3 else "commit"
    async with runner(app):
        platform.lease(run)
        await platform.until(lambda: any(commit.number == 3 for commit in platform.received))
        await platform.until(lambda: platform.credit == 8)
    assert executed == [0, 1, 2]
    assert len(run.commits) == 2
    assert platform.ended == []
    assert platform.handed_back == []


async def test_a_run_whose_end_is_refused_has_failed_its_attempt(platform: Platform, runner: Runner) -> None:
    app, _ = _app()
    run = platform.add("count")
    platform.fate = lambda commit: "INVALID_FIELD" if commit.HasField("end") else "commit"
    async with runner(app):
        platform.lease(run)
        await run.moved.wait()
    assert run.commits[-1].requeue.failure.reason == "INVALID_FIELD"
    assert platform.handed_back == []


async def test_a_run_whose_every_move_is_refused_is_handed_back(platform: Platform, runner: Runner) -> None:
    app, _ = _app()
    run = platform.add("count")
    platform.fate = lambda commit: "INVALID_FIELD" if commit.WhichOneof("move") else "commit"
    async with runner(app):
        platform.lease(run)
        await platform.until(lambda: bool(platform.handed_back))
    assert platform.handed_back[0].run_id == run.run_id


async def test_a_run_whose_past_the_ledger_knows_otherwise_is_handed_back(
    platform: Platform, runner: Runner
) -> None:
    app, executed = _app()
    run = platform.add("count")
    platform.fate = lambda commit: "COMMIT_OUT_OF_ORDER" if commit.number == 3 else "commit"
    async with runner(app):
        platform.lease(run)
        await platform.until(lambda: bool(platform.handed_back))
    assert [(lease.run_id, lease.epoch) for lease in platform.handed_back] == [(run.run_id, run.epoch)]
    assert executed == [0, 1, 2]
    assert len(run.commits) == 2


async def test_commits_of_many_runs_share_messages(platform: Platform, runner: Runner) -> None:
    app, executed = _app()
    runs = [platform.add("count") for _ in range(50)]
    async with runner(app, slots=50):
        platform.lease(*runs)
        async with asyncio.timeout(10):
            for run in runs:
                await run.moved.wait()
    assert len(executed) == 200
    assert len(platform.received) == 250


async def test_a_commit_no_stream_could_carry_fails_its_run_alone(platform: Platform, runner: Runner) -> None:
    app, _ = _app()

    @app.agent("huge")
    async def huge(run: Run) -> None:
        for number in range(8):
            run.send("somewhere", "x" * 900_000, key=str(number))

    monster, fine = platform.add("huge"), platform.add("count")
    async with runner(app):
        platform.lease(monster, fine)
        await monster.moved.wait()
        await fine.moved.wait()
    assert fine.outcome.result.number_value == 6
    assert max(commit.ByteSize() for commit in platform.received) < 4 * 1024 * 1024
