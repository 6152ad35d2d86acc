"""What a run has told so far: its words, its log, and when each step went on, kept true through rewinds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from holdfast.client import Event, Rewound, Snapshot, Update

_WORDS: Final = frozenset({"token", "said"})
_MOST_LINES: Final = 1000
_WIDE: Final = 1000
"""Units of the timeline's width."""


@dataclass(slots=True)
class Bar:
    """A step, a rest or a try on the timeline: from `offset` seconds after acceptance, for `seconds`."""

    offset: float
    seconds: float | None
    kind: str
    key: str
    attempts: int = 0
    tokens: int = 0
    note: str = ""
    x: int = 0
    width: int = 0


@dataclass(slots=True)
class Transcript:
    """The events held, in order; `rewound` counts how often some were taken back."""

    events: list[Event] = field(default_factory=list)
    rewound: int = 0
    kept_from: int = 0

    def take(self, update: Update) -> None:
        """Take in what the stream says."""
        if isinstance(update, Event):
            self.events.append(update)
        elif isinstance(update, Rewound):
            self.events = [each for each in self.events if each.sequence <= update.to_sequence]
            self.rewound += 1
        elif isinstance(update, Snapshot):
            self.kept_from = update.sequence

    def words(self, since: int, until: int) -> str:
        """Return what was said in a range of sequences, sentences on lines of their own."""
        parts, at_line_start = [], True
        for each in self.events:
            if each.kind not in _WORDS or each.sequence > until:
                continue
            alone = each.kind == "said"
            part = ("\n" if alone and not at_line_start else "") + each.text + ("\n" if alone else "")
            at_line_start = part.endswith("\n")
            if each.sequence > since:
                parts.append(part)
        return "".join(parts)

    def log(self, since: int, until: int) -> list[tuple[Event, str]]:
        """Return the events of a range that are no tokens, each with what it says."""
        told = [each for each in self.events if since < each.sequence <= until and each.kind != "token"]
        return [(each, _about(each.data)) for each in told[-_MOST_LINES:]]

    @property
    def last(self) -> int:
        """The sequence of the last event held."""
        return self.events[-1].sequence if self.events else 0

    def bars(self, now: datetime) -> list[Bar]:
        """Return the timeline, in the order in which things began."""
        gathered = _Gathered()
        for each in self.events:
            if each.time is not None:
                gathered.take(each, each.time)
        return gathered.drawn(now)


class _Gathered:
    def __init__(self) -> None:
        self.bars: list[Bar] = []
        self._begin: datetime | None = None
        self._steps: dict[str, Bar] = {}
        self._rest: Bar | None = None
        self._ended = False

    def take(self, event: Event, time: datetime) -> None:
        """Take the next event. Clocks differ between processes: nothing lies before the acceptance."""
        if self._begin is None:
            self._begin = time
        at = max(0.0, (time - self._begin).total_seconds())
        data, key = event.data, str(event.data.get("key", ""))
        if event.kind == "step_started" and key not in self._steps:
            self._steps[key] = self._add(Bar(at, None, str(data.get("kind", "step")).lower(), key))
        elif event.kind == "step_failed" and key in self._steps:
            self._steps[key].attempts = int(data.get("attempt") or 0)
            self._steps[key].note = _failure(data)
        elif event.kind == "step_finished":
            self._finish(at, key, data)
        elif event.kind == "parked":
            self._stop(at)
            self._rest = self._add(Bar(at, None, "rest", ", ".join(data.get("keys") or ()) or "parked"))
        elif event.kind in {"started", "ended"}:
            self._stop(at)
            self._ended = event.kind == "ended"

    def drawn(self, now: datetime) -> list[Bar]:
        """Return the bars with their places."""
        if self._begin is None:
            return []
        until = 0.0 if self._ended else (now - self._begin).total_seconds()
        whole = max([until, 0.001, *(bar.offset + (bar.seconds or 0.0) for bar in self.bars)])
        for bar in self.bars:
            bar.x = min(_WIDE - 6, int(bar.offset / whole * _WIDE))
            length = whole - bar.offset if bar.seconds is None else bar.seconds
            bar.width = max(6, min(_WIDE - bar.x, round(length / whole * _WIDE)))
        return sorted(self.bars, key=lambda bar: bar.offset)

    def _add(self, bar: Bar) -> Bar:
        self.bars.append(bar)
        return bar

    def _finish(self, at: float, key: str, data: Mapping[str, Any]) -> None:
        bar = self._steps.pop(key, None)
        if bar is None:  # a wait tells no begin
            begun = max(0.0, at - float(data.get("duration") or 0.0))
            bar = self._add(Bar(begun, None, str(data.get("kind", "step")).lower(), key))
        bar.seconds = max(0.0, at - bar.offset)
        bar.attempts = int(data.get("attempts") or 0)
        bar.tokens = int((data.get("usage") or {}).get("tokens", 0))
        bar.note = _failure(data)

    def _stop(self, at: float) -> None:
        """Whatever went on goes on no longer: another runner begins it anew."""
        for bar in self._steps.values():
            bar.seconds = max(0.0, at - bar.offset)
            if bar.kind != "wait":
                bar.note = bar.note or "not finished"
        self._steps.clear()
        if self._rest is not None:
            self._rest.seconds = max(0.0, at - self._rest.offset)
            self._rest = None


def _about(data: Mapping[str, Any]) -> str:
    outcome = data.get("outcome") or {}
    names = ("text", "key", "destination", "rung", "step", "intent", "reason", "name", "agent_version")
    words = [outcome.get("status"), *(data.get(name) for name in names), _failure(data)]
    return " · ".join(str(word) for word in words if word)


def _failure(data: Mapping[str, Any]) -> str:
    failure = data.get("failure") or data.get("cause") or (data.get("outcome") or {}).get("failure")
    return f"{failure['reason']}: {failure['message']}" if failure else ""
