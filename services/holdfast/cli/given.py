"""What people type: JSON inline, from a file or from standard input; durations, budgets, labels."""

import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import click

from holdfast.client import Budget

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LIMITS: Final = tuple(field.name for field in fields(Budget))


class Seconds(click.ParamType[float]):
    """A duration: `500ms`, `30s`, `2m`, `1h`, `7d`, or a plain number of seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Rate(click.ParamType[float]):
    """How often a second: `20/s`, `90/m`, `1000/h`, or a plain number."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return how often a second."""
        if isinstance(value, int | float):
            return float(value)
        number, _, unit = str(value).strip().partition("/")
        try:
            rate = float(number) / _UNITS[unit.strip() or "s"]
        except (ValueError, KeyError):
            rate = -1.0
        if not 0 <= rate < float("inf"):
            self.fail(f"{value!r} is not a rate, as 20/s or 90/m.", param, ctx)
        return rate


class Limits(click.ParamType[Budget]):
    """A budget: `max_steps=10,max_tokens=5000,deadline=30s`."""

    name = "budget"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Budget:
        """Return the budget."""
        if isinstance(value, Budget):
            return value
        try:
            return Budget(**dict(_limit(part) for part in str(value).split(",") if part.strip()))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Pair(click.ParamType[tuple[str, str]]):
    """A label: `key=value`."""

    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return key and value."""
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not equals or not key:
            self.fail(f"{value!r} is not key=value.", param, ctx)
        return key, text


class Cap(click.ParamType[tuple[str, int]]):
    """A cap of something named: `intent=5`."""

    def __init__(self, of: str = "intent") -> None:
        """Name what it is `of`."""
        self.of = of
        self.name = f"{of}=n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Return the name and the number."""
        if isinstance(value, tuple):
            return value
        named, _, number = str(value).rpartition("=")
        if not named or not number.isascii() or not number.isdigit() or not int(number):
            self.fail(f"{value!r} is not {self.of}=5, with at least 1.", param, ctx)
        return named, int(number)


class Retention(click.ParamType[dict[str, float]]):
    """For how long runs are kept: `batch=7d` of a shape, `30d` of all; 0 is the platform's default."""

    name = "[shape=]duration"
    shapes = ("service", "worker", "workflow", "batch")

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, float]:
        """Return the seconds by shape."""
        if isinstance(value, dict):
            return value
        shape, equals, text = str(value).rpartition("=")
        if equals and shape.lower() not in self.shapes:
            self.fail(f"{shape!r} is none of the shapes {', '.join(self.shapes)}.", param, ctx)
        try:
            kept = seconds(text)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return {shape.lower(): kept} if equals else dict.fromkeys(self.shapes, kept)


def seconds(text: str) -> float:
    """Return the seconds a duration stands for; `ValueError` in one sentence."""
    number = text.strip().rstrip("msdh")
    unit = text.strip()[len(number) :] or "s"
    try:
        value = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        raise ValueError(f"{text!r} is not a duration, as 500ms, 30s, 2m or 1h.") from None
    if not 0 <= value < float("inf"):
        raise ValueError(f"{text!r} is not a duration: it must be finite and not negative.")
    return value


def text_of(given: str) -> str:
    """Return what `-d` means: `-` standard input, `@file` a file, anything else itself."""
    if given == "-":
        return sys.stdin.read()
    if given.startswith("@"):
        try:
            return Path(given[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(f"{given[1:]} cannot be read: {error}", param_hint="-d") from error
    return given


def json_object(given: str) -> dict[str, Any]:
    """Return the JSON object that `-d` gives. Raises `click.BadParameter`."""
    return _object(text_of(given), "")


def json_value(given: str) -> Any:
    """Return the JSON that `-d` gives, of any kind. Raises `click.BadParameter`."""
    return _parsed(text_of(given), "")


def json_lines(given: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects that `-d` gives: one a line, or the items of one array."""
    text = text_of(given)
    if text.lstrip().startswith("["):
        items = _parsed(text, "")
        for number, item in enumerate(items, 1):
            yield _demanded(item, f"item {number}: ")
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield _object(line, f"line {number}: ")


def _object(text: str, where: str) -> dict[str, Any]:
    return _demanded(_parsed(text, where), where)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{where}this is not JSON: {error}", param_hint="-d") from error


def _demanded(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise click.BadParameter(f"{where}this must be a JSON object.", param_hint="-d")
    return value


def _limit(part: str) -> tuple[str, int]:
    name, _, text = part.strip().partition("=")
    if name == "deadline":
        return "deadline_ms", round(seconds(text) * 1000)
    if name not in _LIMITS:
        raise ValueError(f"{name!r} is none of deadline, {', '.join(_LIMITS)}.")
    try:
        return name, int(text)
    except ValueError:
        raise ValueError(f"{name} must be a whole number, not {text!r}.") from None
