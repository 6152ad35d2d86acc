"""A timeline tells when what happened, also of a run that goes on, rests, or lost its runner."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from holdfast.cli.timeline import Entry, drawn, entries_of, time_of
from holdfast.client import Event
from holdfast.v1 import invoker_service_pb2 as pb
from holdfast.v1 import transcript_pb2
from tests.cli.conftest import Holdfast
from tests.client.contract_server import RUN_ID, ContractServer, ended, event, run

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def told(*happened: tuple[float, str, dict[str, Any]]) -> list[Event]:
    return [
        Event(RUN_ID, number, kind, data, time=BEGIN + timedelta(seconds=at), attempt=1)
        for number, (at, kind, data) in enumerate(happened, 1)
    ]


def test_a_step_is_one_line_from_its_first_try_to_its_record() -> None:
    failure = {"reason": "TIMEOUT", "message": "too slow"}
    events = told(
        (0, "accepted", {}),
        (1, "step_started", {"key": "ask", "kind": "MODEL", "attempt": 1}),
        (2, "step_failed", {"key": "ask", "attempt": 1, "failure": failure}),
        (3, "step_started", {"key": "ask", "kind": "MODEL", "attempt": 2}),
        (5, "step_finished", {"key": "ask", "kind": "MODEL", "attempts": 2, "usage": {"tokens": 7}}),
    )
    assert entries_of(events) == [
        Entry(1.0, 4.0, "model", "ask", 2, 7),
        Entry(2.0, 0.0, "try", "ask", 1, note="TIMEOUT: too slow"),
    ]


def test_a_rest_lasts_until_a_runner_starts_again() -> None:
    events = told(
        (0, "accepted", {}),
        (1, "parked", {"keys": ["inbox"], "until": None}),
        (61, "started", {"agent_version": "1", "replayed_steps": 2}),
        (62, "step_finished", {"key": "receive", "kind": "WAIT", "attempts": 1, "duration": 61.5}),
        (63, "parked", {"keys": [], "until": BEGIN + timedelta(hours=1)}),
    )
    assert entries_of(events) == [
        Entry(0.5, 61.5, "wait", "receive", 1),
        Entry(1.0, 60.0, "parked", "inbox"),
        Entry(61.0, 0.0, "started", "1", 1, note="2 replayed"),
        Entry(63.0, None, "parked", "", note="until 2026-01-01 01:00:00"),
    ]


def test_a_step_that_died_with_its_runner_is_not_finished() -> None:
    events = told(
        (0, "accepted", {}),
        (1, "step_started", {"key": "a", "kind": "FUNCTION", "attempt": 1}),
        (3, "started", {"agent_version": "1", "replayed_steps": 0}),
        (4, "step_started", {"key": "a", "kind": "FUNCTION", "attempt": 1}),
        (
            6,
            "ended",
            {"outcome": {"status": "CANCELLED", "failure": {"reason": "CANCELLED", "message": "no"}}},
        ),
    )
    steps = [entry for entry in entries_of(events) if entry.kind == "step"]
    assert [(step.offset, step.seconds, step.note) for step in steps] == [
        (1.0, 2.0, "not finished"),
        (4.0, 2.0, "not finished"),
    ]
    assert entries_of(events)[-1] == Entry(6.0, 0.0, "ended", "CANCELLED", note="CANCELLED: no")


def test_bars_stand_where_their_time_is_and_lines_keep_to_the_terminal() -> None:
    entries = [
        Entry(0.0, 5.0, "step", "first"),
        Entry(5.0, 5.0, "parked", "inbox"),
        Entry(10.0, 0.0, "ended", "x" * 200),
    ]
    lines = drawn(entries, 60)
    assert lines[0] == "    +0ms " + "█" * 10 + " " * 10 + "   5.00s  step first"
    assert lines[1] == "  +5.00s " + " " * 10 + "·" * 10 + "   5.00s  parked inbox"
    assert len(lines[2]) == 60
    assert "│" in lines[2]
    assert drawn([], 80) == ["Nothing has happened yet."]


def test_times_are_short_at_every_length() -> None:
    assert [time_of(s) for s in (0.085, 3.2, 245, 7800, 273_600)] == [
        "85ms",
        "3.20s",
        "4m05s",
        "2h10m",
        "3d04h",
    ]


async def test_the_timeline_of_a_run_that_goes_on_ends_at_what_is_committed(
    server: ContractServer, holdfast: Holdfast
) -> None:
    async def script(*_: Any) -> AsyncIterator[Any]:
        begun = transcript_pb2.StepStarted(key="plan", kind=transcript_pb2.STEP_KIND_FUNCTION)
        accepted = event(1, accepted=transcript_pb2.RunAccepted())
        for number, one in enumerate((accepted, event(2, step_started=begun)), 1):
            one.time.FromDatetime(BEGIN + timedelta(seconds=number))
            yield pb.WatchRunResponse(event=one)
        raise AssertionError("nobody asks for what is not committed")

    server.invoker.script["GetRun"] = lambda *_: pb.GetRunResponse(run=run(last_sequence=2))
    server.invoker.script["WatchRun"] = script
    shown = await holdfast("runs", "timeline", RUN_ID, "-o", "json")
    assert shown.code == 0, shown.err
    assert [(one["kind"], one["what"], one["seconds"]) for one in shown.json] == [("step", "plan", None)]


async def test_the_timeline_of_an_ended_run_is_plain_text(server: ContractServer, holdfast: Holdfast) -> None:
    async def script(*_: Any) -> AsyncIterator[Any]:
        yield pb.WatchRunResponse(snapshot=transcript_pb2.Snapshot(run=run(), sequence=6))
        last = ended(7)
        last.time.FromDatetime(BEGIN)
        yield pb.WatchRunResponse(event=last)

    server.invoker.script["GetRun"] = lambda *_: pb.GetRunResponse(run=run(last_sequence=7))
    server.invoker.script["WatchRun"] = script
    shown = await holdfast("runs", "timeline", RUN_ID)
    assert shown.code == 0, shown.err
    first, second = shown.out.splitlines()
    assert first == "Events up to 6 are no longer kept."
    assert second.endswith("ended SUCCEEDED")
    assert "\x1b" not in shown.out
