"""One JSON line per event on standard error, never a payload.

A line is `{"time", "level", "service", "logger", "event", …fields}`. What a task was told to say with all its
lines (`bind`: the run it works for, the trace it is in) comes before what a line says itself. Lines of
libraries that use the standard `logging` take the same form once `configure` was called.
"""

import json
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

DEBUG: Final = 10
INFO: Final = 20
WARNING: Final = 30
ERROR: Final = 40
_LEVELS: Final = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR}
_NAMES: Final = {number: name for name, number in _LEVELS.items()}

_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode

_bound: ContextVar[Mapping[str, object]] = ContextVar("holdfast_log", default=MappingProxyType({}))


def bind(**fields: object) -> None:
    """Say these with every line of this task, and of those it starts from now on.

    The last word counts, and None is a word: no more of that field.
    """
    said = {**_bound.get(), **fields}
    _bound.set({name: value for name, value in said.items() if value is not None})


def bound_trace() -> str:
    """Return the id of the trace that this task's lines name; empty if they name none."""
    return str(_bound.get().get("trace_id", ""))


class _Sink:
    """Where lines go and which are wanted: the one per process that a log has to have."""

    def __init__(self) -> None:
        self.service = ""
        self.level = INFO
        self.write: Callable[[str], object] | None = None

    def emit(self, level: int, name: str, event: str, fields: dict[str, object]) -> None:
        """Write one line; a closed or full standard error is not the caller's problem."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "level": _NAMES.get(level, "info"),
            "service": self.service,
            "logger": name,
            "event": event,
            **_bound.get(),
            **fields,
        }
        write = self.write or sys.stderr.write
        try:
            write(_encode(line) + "\n")
        except (OSError, ValueError):
            return  # there is nowhere left to say it


_sink: Final = _Sink()


class Logger:
    """Writes events of one part of a service; fields are ids, counts and names, never payloads."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def enabled(self, level: int) -> bool:
        """Say whether a line of `level` would be written, to spare computing its fields."""
        return level >= _sink.level

    def write(self, level: int, event: str, **fields: object) -> None:
        """Write a line of a `level` that only the caller knows."""
        if level >= _sink.level:
            _sink.emit(level, self.name, event, fields)

    def debug(self, event: str, **fields: object) -> None:
        """Note what only a developer looks for."""
        if _sink.level <= DEBUG:
            _sink.emit(DEBUG, self.name, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Note what happened as it should."""
        if _sink.level <= INFO:
            _sink.emit(INFO, self.name, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Note what the service healed or refused by itself."""
        if _sink.level <= WARNING:
            _sink.emit(WARNING, self.name, event, fields)

    def error(self, event: str, *, error: BaseException | None = None, **fields: object) -> None:
        """Note what a person must look at; `error` adds its type, text and stack."""
        if error is not None:
            fields["error"] = type(error).__name__
            fields["error_text"] = str(error)
            fields["stack"] = "".join(traceback.format_exception(error))
        _sink.emit(ERROR, self.name, event, fields)


def logger(name: str) -> Logger:
    """Return the logger of a part of a service."""
    return Logger(name)


class _Bridge(logging.Handler):
    """Carries lines of libraries over."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, object] = {}
        if record.exc_info and record.exc_info[1] is not None:
            fields["stack"] = "".join(traceback.format_exception(record.exc_info[1]))
        level = min(ERROR, max(DEBUG, record.levelno // 10 * 10))
        _sink.emit(level, record.name, record.getMessage(), fields)


def configure(service: str, *, level: str = "info", write: Callable[[str], object] | None = None) -> None:
    """Name the service in all lines, set the least `level`, and take over the standard `logging`.

    Repeatable; the last call counts. `write` takes whole lines instead of standard error.
    """
    if level not in _LEVELS:
        raise ValueError(f"log level {level!r} is none of {', '.join(_LEVELS)}")
    _sink.service = service
    _sink.level = _LEVELS[level]
    _sink.write = write
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, _Bridge)] + [_Bridge()]
    root.setLevel(max(_sink.level, INFO))
    logging.getLogger("httpx").setLevel(WARNING)  # it would tell the URL of each call, queries included
