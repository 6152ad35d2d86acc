"""How values read on a page, as filters of its template: times, statuses, numbers, JSON, words of a shell."""

import json
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from markupsafe import Markup

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400
_LONGEST: Final = 20_000
"""Characters of one value that a page shows."""

_TONES: Final[Mapping[str, str]] = {
    "SUCCEEDED": "good",
    "APPROVED": "good",
    "DELIVERED": "good",
    "CLOSED": "good",
    "STARTED": "good",
    "APPLIED": "good",
    "COMPLETED": "good",
    "ACCEPTED": "good",
    "STAGED": "wait",
    "IN_REVIEW": "wait",
    "APPLYING": "busy",
    "UPLOADING": "busy",
    "READY": "wait",
    "PAUSED": "warn",
    "ROLLING_BACK": "warn",
    "ROLLED_BACK": "warn",
    "SKIPPED": "bad",
    "SKIPPED_OVERLAP": "warn",
    "SKIPPED_MISSED": "warn",
    "APPLY_FAILED": "bad",
    "ROLLBACK_FAILED": "bad",
    "REJECTED": "warn",
    "RUNNING": "busy",
    "SENDING": "busy",
    "HALF_OPEN": "warn",
    "PARKED": "wait",
    "PENDING": "wait",
    "QUEUED": "idle",
    "PARTIAL": "warn",
    "COMPENSATING": "warn",
    "COMPENSATED": "warn",
    "TIMED_OUT": "warn",
    "DRIFTED": "bad",
    "FAILED": "bad",
    "DEAD_LETTERED": "bad",
    "DENIED": "bad",
    "OPEN": "bad",
}


def span(seconds: float) -> str:
    """Return a length of time in its largest unit or two: `85 ms`, `3.2 s`, `4 min`, `2 h 10 min`, `3 d`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    if seconds < _HOUR:
        return f"{int(seconds // _MINUTE)} min"
    if seconds < _DAY:
        minutes = int(seconds % _HOUR // _MINUTE)
        return f"{int(seconds // _HOUR)} h" + (f" {minutes} min" if minutes else "")
    return f"{int(seconds // _DAY)} d"


def when(moment: datetime | None) -> Markup:
    """Return a moment relative to now, with the moment itself in the title."""
    if moment is None:
        return Markup('<span class="none">-</span>')
    seconds = (datetime.now(UTC) - moment).total_seconds()
    text = f"{_round(seconds)} ago" if seconds > 0 else f"in {_round(-seconds)}"
    if abs(seconds) < 1:
        text = "now"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.isoformat(), moment.strftime("%Y-%m-%d %H:%M:%S UTC"), text
    )


def _round(seconds: float) -> str:
    return f"{int(seconds)} s" if seconds < _MINUTE else span(seconds)


def tone(status: object) -> str:
    """Return how a status looks: good, busy, wait, idle, warn or bad."""
    return _TONES.get(str(status), "idle")


def word(status: object) -> str:
    """Return a status or an event's kind as words."""
    return str(status).replace("_", " ").lower()


def pretty(value: Any) -> str:
    """Return a value as indented JSON, cut where it is very long: to be read, never to be sent back."""
    text = _indented(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}\n… {len(text) - _LONGEST} characters more"


def editable(value: Any) -> str | None:
    """Return a value as indented JSON, whole, for a field in which it is changed; None if it is very long."""
    text = _indented(value)
    return text if len(text) <= _LONGEST else None


def _indented(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def number(value: float) -> str:
    """Return a number with thin groups of three digits."""
    return f"{value:,.0f}".replace(",", "\u202f")


FILTERS: Final = {
    "span": span,
    "when": when,
    "tone": tone,
    "word": word,
    "pretty": pretty,
    "editable": editable,
    "quoted": shlex.quote,
    "number": number,
}
