"""Log lines for a person at a terminal: who, when, what, and the fields after it."""

import json
from typing import Any, Final

_WIDTH: Final = 12
_COLOURS: Final = {"invoker": 36, "checkpoint": 35, "runner": 32, "approval": 34, "dispatcher": 33}
_LOUD: Final = {"warning": 33, "error": 31}
_SAID: Final = frozenset({"time", "level", "service", "logger", "event", "stack"})


def readable(name: str, line: str) -> str:
    """Return a line of a process's log in its readable form; what is no JSON stays as it is."""
    prefix = _coloured(f"{name:<{_WIDTH}}", _COLOURS.get(name.partition("-")[0], 37)) + "│ "
    entry = _entry(line)
    if entry is None:
        return prefix + line
    fields = " ".join(f"{key}={value}" for key, value in entry.items() if key not in _SAID)
    event = str(entry.get("event", ""))
    level = str(entry.get("level", ""))
    text = f"{_clock(entry)} {_coloured(event, _LOUD[level]) if level in _LOUD else event}"
    stack = str(entry.get("stack", "")).rstrip()
    below = "".join(f"\n{prefix}  {one}" for one in stack.splitlines())
    return f"{prefix}{text} {_coloured(fields, 2)}{below}" if fields else f"{prefix}{text}{below}"


def _entry(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "event" in entry else None


def _clock(entry: dict[str, Any]) -> str:
    return str(entry.get("time", ""))[11:23]


def _coloured(text: str, code: int) -> str:
    return f"\x1b[{code}m{text}\x1b[0m"
