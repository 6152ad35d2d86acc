"""A runner dies right before and right after a handoff: the run is handed off once, and goes on."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from holdfast.client import Budget, Event, RunStatus
from tests.crash.world import World

CRASH_AT = "HOLDFAST_CRASH_AT"


async def test_a_crash_around_the_handoff_makes_it_neither_lost_nor_twice(tmp_path: Path) -> None:
    async with World.opened(tmp_path, runners=1) as world:
        runner = world.suite.processes["runner"]
        for point in ("runner.before_handoff", "runner.after_handoff"):
            await runner.stop()
            runner.tell({CRASH_AT: f"{point}:1"})
            await runner.start()
            gate = tmp_path / point
            handle = await world.client.invoke(
                "crash.away",
                {"file": str(gate)},
                budget=Budget(deadline_ms=60_000),
                handoff=Budget(deadline_ms=3_600_000),
            )
            assert await runner.exited() == -9
            runner.tell({CRASH_AT: None})
            await runner.start()
            second = await world.happened(handle.run_id, "executed", step="wait")
            run = await world.client.get_run(handle.run_id)
            assert (run.handed_off, run.attempt, run.shape.name) == (True, 2, "WORKER"), point
            assert run.budget.deadline_ms == 3_600_000
            assert run.deadline_time is not None
            assert run.deadline_time > datetime.now(UTC) + timedelta(minutes=50)
            gate.touch()
            ended = await handle.ended(patience=30)
            assert ended.status is RunStatus.SUCCEEDED
            assert ended.outcome is not None
            assert ended.outcome.result is True
            assert [deed.step for deed in world.deeds(handle.run_id) if deed.what == "executed"] == [
                "change", "wait"
            ]  # fmt: skip
            assert second.pid == runner.pid
            async with world.client.watch(handle.run_id) as stream:
                events = [update async for update in stream if isinstance(update, Event)]
            assert [event.kind for event in events].count("handed_off") == 1
            assert [event.text for event in events if event.kind == "said"] == [
                "I go on in the background",
                "on it",
            ]
