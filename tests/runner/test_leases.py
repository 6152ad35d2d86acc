import asyncio

from holdfast.agent import App, Run, step
from holdfast.v1.checkpoint_pb2 import Commit
from holdfast.v1.run_pb2 import RunStatus
from tests.runner.conftest import Runner
from tests.runner.platform import Platform


def _app() -> tuple[App, asyncio.Event]:
    app = App("desk", version="7", compatible_versions=["6"])
    waiting = asyncio.Event()

    async def double(number: int) -> int:
        return number * 2

    @app.agent("double")
    async def doubled(run: Run, numbers: dict[str, int]) -> int:
        return await run.step(double, await run.step(double, numbers["number"]))

    async def wait() -> None:
        waiting.set()
        await asyncio.sleep(60)

    @app.agent("wait")
    async def waits(run: Run) -> None:
        await run.step(step(repeatable=True)(double), 1)
        await run.step(wait)

    return app, waiting


async def test_a_leased_run_is_executed_and_its_end_reported_with_its_slot(
    platform: Platform, runner: Runner
) -> None:
    app, _ = _app()
    async with runner(app, slots=3) as running:
        assert platform.hello is not None
        assert platform.hello.address == running.server.address
        served = {each.intent: each for each in platform.hello.intents}
        assert served["double"].agent_version == "7"
        assert list(served["double"].compatible_versions) == ["6"]
        runs = [platform.add("double", number=number) for number in range(3)]
        platform.lease(*runs)
        await platform.until(lambda: len(platform.ended) == 3 and platform.credit == 3)
        assert [run.outcome.result.number_value for run in runs] == [0, 4, 8]
        assert [run.keys for run in runs] == [["double", "double#2"]] * 3
        await platform.until(lambda: platform.heartbeats >= 2)


async def test_slots_are_free_again_while_the_last_commits_are_under_way(
    platform: Platform, runner: Runner
) -> None:
    app, _ = _app()
    platform.fate = lambda commit: "retry" if commit.WhichOneof("move") else "commit"
    runs = [platform.add("double", number=number) for number in range(5)]
    async with runner(app, slots=8):
        platform.lease(*runs)
        await platform.until(lambda: platform.credit == 8 - 5 + 2)  # a quarter of the slots
        moves = [commit for commit in platform.received if commit.WhichOneof("move")]
        assert moves
        platform.cut_lease_stream()
        await platform.until(lambda: len(platform.sessions) == 2 and platform.credit == 5)
        assert platform.ended == []
        platform.fate = lambda _: "commit"
        await platform.until(lambda: len(platform.ended) == 5 and platform.credit == 8)
        heartbeats = platform.heartbeats
        await platform.until(lambda: platform.heartbeats > heartbeats + 2)
        assert platform.credit == 8


async def test_an_end_that_is_sent_again_frees_one_slot(platform: Platform, runner: Runner) -> None:
    app, _ = _app()
    run = platform.add("double", number=1)
    moves: list[int] = []

    def refuse_the_first(commit: Commit) -> str:
        if commit.WhichOneof("move") is None:
            return "commit"
        moves.append(commit.number)
        return "INVALID_FIELD" if len(moves) == 1 else "commit"

    platform.fate = refuse_the_first
    async with runner(app, slots=8):
        platform.lease(run)
        await platform.until(lambda: run.moved.is_set() and platform.credit >= 8)
        assert len(moves) == 2
        heartbeats = platform.heartbeats
        await platform.until(lambda: platform.heartbeats > heartbeats + 2)
        assert platform.credit == 8


async def test_a_run_that_goes_on_keeps_its_slot(platform: Platform, runner: Runner) -> None:
    app, waiting = _app()
    run = platform.add("wait")
    async with runner(app, slots=1):
        platform.lease(run)
        await waiting.wait()
        assert run.keys == ["double"]
        heartbeats = platform.heartbeats
        await platform.until(lambda: platform.heartbeats > heartbeats + 2)
        assert platform.credit == 0


async def test_a_run_leased_again_goes_on_from_its_recorded_steps(platform: Platform, runner: Runner) -> None:
    app, waiting = _app()
    run = platform.add("wait")
    async with runner(app):
        platform.lease(run)
        await waiting.wait()
        platform.revoke(run)
        await platform.until(lambda: platform.credit == 8)
        assert run.keys == ["double"]
        waiting.clear()
        platform.lease(run)
        await waiting.wait()
        started = [commit for commit in platform.received if commit.epoch > 1]
        assert started == []
        platform.cancel(run, "enough")
        await run.moved.wait()
    assert run.keys == ["double"]
    assert run.outcome.status == RunStatus.RUN_STATUS_CANCELLED
    assert run.outcome.failure.message == "enough"
    replayed = [event.started.replayed_steps for event in run.events if event.HasField("started")]
    assert replayed == [0, 1]


async def test_a_run_told_again_after_its_end_is_not_executed_again(
    platform: Platform, runner: Runner
) -> None:
    app, _ = _app()
    run, later = platform.add("double", number=1), platform.add("double", number=2)
    async with runner(app):
        late = run.assignment()
        platform.lease_as(late)
        await platform.until(lambda: run.run_id in platform.ended)
        received = len(platform.received)
        platform.lease_as(late)
        platform.lease(later)
        await platform.until(lambda: later.run_id in platform.ended)
    assert {commit.run_id for commit in platform.received[received:]} == {later.run_id}


async def test_a_revoked_run_commits_nothing_more(platform: Platform, runner: Runner) -> None:
    app, waiting = _app()
    run = platform.add("wait")
    async with runner(app):
        platform.lease(run)
        await waiting.wait()
        received = len(platform.received)
        platform.revoke(run)
        await platform.until(lambda: platform.credit == 8)
        assert len(platform.received) == received
        assert run.run_id not in platform.ended


async def test_a_broken_lease_stream_is_opened_again_with_the_same_session(
    platform: Platform, runner: Runner
) -> None:
    app, waiting = _app()
    run = platform.add("wait")
    async with runner(app, slots=2):
        platform.lease(run)
        await waiting.wait()
        platform.cut_lease_stream()
        await platform.until(lambda: len(platform.sessions) == 2 and platform.credit == 1)
        assert platform.sessions[0] == platform.sessions[1]
        platform.cancel(run, "")
        await run.moved.wait()
        await platform.until(lambda: platform.credit == 2)


async def test_runs_are_stopped_at_once_when_the_session_is_lost(platform: Platform, runner: Runner) -> None:
    platform.ttl = 0.2
    app, waiting = _app()
    run = platform.add("wait")
    stopped = asyncio.Event()
    async with runner(app) as running:
        platform.lease(run)
        await waiting.wait()
        running.holding.freed = stopped.set
        received = len(platform.received)
        await platform.stop()
        await asyncio.wait_for(stopped.wait(), 5)
        assert len(running.holding) == 0
        assert len(platform.received) == received
        await platform.start(platform.address)
        await platform.until(lambda: len(platform.sessions) == 2)
        assert platform.sessions[0] != platform.sessions[1]


async def test_an_unknown_intent_is_handed_back(platform: Platform, runner: Runner) -> None:
    app, _ = _app()
    async with runner(app):
        run = platform.add("unheard")
        platform.lease(run)
        await platform.until(lambda: bool(platform.handed_back))
        assert platform.handed_back[0].run_id == run.run_id


async def test_a_drain_hands_back_what_does_not_end_and_takes_no_more(
    platform: Platform, runner: Runner
) -> None:
    app, waiting = _app()
    run = platform.add("wait")
    async with runner(app) as running:
        platform.lease(run)
        await waiting.wait()
        assert await running.holding.drain(0.05) == (0, 1)
        assert run.commits[-1].requeue.blameless
        late = platform.add("double", number=1)
        platform.lease(late)
        await platform.until(lambda: [lease.run_id for lease in platform.handed_back] == [late.run_id])


async def test_the_runs_of_an_intent_at_once_are_bounded(platform: Platform, runner: Runner) -> None:
    app = App("narrow")
    inside: list[int] = []
    most: list[int] = []

    @app.agent("narrow", max_concurrent=2)
    async def narrow(_: Run) -> None:
        inside.append(1)
        most.append(len(inside))
        await asyncio.sleep(0.01)
        inside.pop()

    async with runner(app):
        platform.lease(*[platform.add("narrow") for _ in range(6)])
        await platform.until(lambda: len(platform.ended) == 6)
    assert max(most) == 2
