"""When what happened in a run: a line for each step, try, rest and effect, with a bar over the run's time."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import click

from holdfast.cli.output import json_line
from holdfast.cli.target import Target, speaks
from holdfast.client import Client, Event, Rewound, Snapshot

_PASSED_OVER: Final = frozenset(
    {"accepted", "token", "said", "tool_called", "tool_returned", "budget_reported"}
)
_NARROWEST_BAR: Final = 10
_BAR_SHARE: Final = 3
"""The bars take one of so many parts of the terminal."""


@dataclass(slots=True)
class Entry:
    """One line: from `offset` seconds after acceptance, for so many `seconds`; None while it goes on."""

    offset: float
    seconds: float | None
    kind: str
    what: str = ""
    attempts: int = 0
    tokens: int = 0
    note: str = ""


@click.command()
@click.argument("run_id")
@speaks
async def timeline(target: Target, run_id: str) -> None:
    """Show when what happened in a run, until its end or until now."""
    async with target.client() as client:
        events, kept_from = await _events(client, run_id)
    entries = entries_of(events)
    if target.form == "json":
        for entry in entries:
            json_line(entry)
        return
    if kept_from:
        click.echo(f"Events up to {kept_from} are no longer kept.")
    for line in drawn(entries, shutil.get_terminal_size().columns):
        click.echo(line)


async def _events(client: Client, run_id: str) -> tuple[list[Event], int]:
    """Return the events committed until now, and up to which sequence they are no longer kept."""
    last = (await client.get_run(run_id)).last_sequence
    held: list[Event] = []
    kept_from = 0
    async with client.watch(run_id) as updates:
        async for update in updates:
            if isinstance(update, Rewound):
                held = [event for event in held if event.sequence <= update.to_sequence]
            elif isinstance(update, Snapshot):
                kept_from = update.sequence
            else:
                held.append(update)
            if not isinstance(update, Rewound) and update.sequence >= last:
                break
    return held, kept_from


def entries_of(events: Iterable[Event]) -> list[Entry]:
    """Return the lines of a transcript, in the order in which they began."""
    gathered = _Gathered()
    for event in events:
        if event.time is not None:
            gathered.take(event, event.time)
    return sorted(gathered.entries, key=lambda entry: entry.offset)


class _Gathered:
    """What has been told so far: steps that go on by their key, and the rest that goes on."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._begin: datetime | None = None
        self._steps: dict[str, Entry] = {}
        self._rest: Entry | None = None

    def take(self, event: Event, time: datetime) -> None:
        """Take the next event in. Clocks differ between processes: nothing lies before the acceptance."""
        if self._begin is None:
            self._begin = time
        at = max(0.0, (time - self._begin).total_seconds())
        data = event.data
        if event.kind == "step_started":
            key = str(data["key"])
            if key not in self._steps:
                self._steps[key] = self._add(Entry(at, None, _word(data), key))
        elif event.kind == "step_finished":
            self._finished(at, data)
        elif event.kind == "step_failed":
            self._add(Entry(at, 0.0, "try", str(data["key"]), int(data["attempt"]), note=_failure(data)))
        elif event.kind == "started":
            self._started(at, event)
        elif event.kind == "parked":
            keys = ", ".join(data["keys"])
            until = data.get("until")
            note = f"until {until:%Y-%m-%d %H:%M:%S}" if until else ""
            self._rest = self._add(Entry(at, None, "parked", keys, note=note))
        elif event.kind not in _PASSED_OVER:
            self._add(Entry(at, 0.0, event.kind.replace("_", " "), _about(data), note=_failure(data)))
        if event.kind == "ended":
            self._stop(at)

    def _add(self, entry: Entry) -> Entry:
        self.entries.append(entry)
        return entry

    def _started(self, at: float, event: Event) -> None:
        # What another runner had begun is begun anew by this one.
        self._stop(at)
        replayed = event.data.get("replayed_steps") or 0
        note = f"{replayed} replayed" if replayed else ""
        self._add(
            Entry(at, 0.0, "started", str(event.data.get("agent_version", "")), event.attempt, note=note)
        )

    def _finished(self, at: float, data: Mapping[str, Any]) -> None:
        key = str(data["key"])
        entry = self._steps.pop(key, None)
        if entry is None:  # a wait tells no begin
            begun = max(0.0, at - float(data.get("duration") or 0.0))
            entry = self._add(Entry(begun, None, _word(data), key))
        entry.seconds = max(0.0, at - entry.offset)
        entry.attempts = int(data.get("attempts") or 0)
        entry.tokens = int((data.get("usage") or {}).get("tokens", 0))
        entry.note = _failure(data)

    def _stop(self, at: float) -> None:
        for entry in self._steps.values():
            entry.seconds = max(0.0, at - entry.offset)
            entry.note = "not finished"
        self._steps.clear()
        if self._rest is not None:
            self._rest.seconds = max(0.0, at - self._rest.offset)
            self._rest = None


def drawn(entries: list[Entry], width: int) -> list[str]:
    """Return the lines as text, none wider than `width` where that leaves room for the bars."""
    if not entries:
        return ["Nothing has happened yet."]
    whole = max(entry.offset + (entry.seconds or 0.0) for entry in entries) or 1.0
    room = max(_NARROWEST_BAR, width // _BAR_SHARE)
    lines = []
    for entry in entries:
        took = "…" if entry.seconds is None else time_of(entry.seconds) if entry.seconds else ""
        head = f"{'+' + time_of(entry.offset):>8} {_bar(entry, whole, room)} {took:>7}  "
        lines.append((head + _words(entry))[: max(width, len(head))].rstrip())
    return lines


def time_of(seconds: float) -> str:
    """Return a time as a person reads it: `85ms`, `3.20s`, `4m05s`, `2h10m`, `3d04h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:  # noqa: PLR2004 - as all of these: units of time
        return f"{seconds:.2f}s"
    if seconds < 3600:  # noqa: PLR2004
        return f"{int(seconds // 60)}m{int(seconds % 60):02}s"
    if seconds < 86_400:  # noqa: PLR2004
        return f"{int(seconds // 3600)}h{int(seconds % 3600 // 60):02}m"
    return f"{int(seconds // 86_400)}d{int(seconds % 86_400 // 3600):02}h"


def _bar(entry: Entry, whole: float, room: int) -> str:
    begin = min(room - 1, int(entry.offset / whole * room))
    end = room if entry.seconds is None else round((entry.offset + entry.seconds) / whole * room)
    length = min(room, max(begin + 1, end)) - begin
    mark = "│" if entry.seconds == 0.0 else "·" if entry.kind == "parked" else "█"
    return (" " * begin + mark * length).ljust(room)


def _words(entry: Entry) -> str:
    tries = f"({entry.attempts} tries)" if entry.attempts > 1 and entry.kind not in {"try", "started"} else ""
    number = f"{entry.attempts}" if entry.kind in {"try", "started"} and entry.attempts else ""
    tokens = f"{entry.tokens} tokens" if entry.tokens else ""
    return " ".join(word for word in (entry.kind, number, entry.what, tries, tokens, entry.note) if word)


def _word(data: Mapping[str, Any]) -> str:
    kind = str(data.get("kind", "")).lower()
    return kind if kind in {"model", "tool", "wait"} else "step"


def _about(data: Mapping[str, Any]) -> str:
    outcome = data.get("outcome") or {}
    named = [data.get(name) for name in ("destination", "rung", "step", "key", "reason", "intent")]
    child = [data.get("run_id"), data.get("status")] if {"intent", "status"} & data.keys() else []
    return " ".join(str(word) for word in (outcome.get("status"), *named, *child) if word)


def _failure(data: Mapping[str, Any]) -> str:
    failure = data.get("failure") or data.get("cause") or (data.get("outcome") or {}).get("failure")
    return f"{failure['reason']}: {failure['message']}" if failure else ""
