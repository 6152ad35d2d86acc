"""Tables for people, one JSON object per line for programs; nothing else goes to standard output."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Literal

import click

from holdfast.client import HoldfastError

Form = Literal["table", "json"]


def plain(value: Any) -> Any:
    """Return a value as JSON has it: enums as words, times in ISO 8601, errors as their reason."""
    if isinstance(value, HoldfastError):
        named = {violation.field: violation.description for violation in value.violations}
        return {"code": value.code, "reason": value.reason, "message": value.message, "fields": named}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return _plain_leaf(value)


def _plain_leaf(value: Any) -> Any:
    if isinstance(value, IntEnum):
        return value.name
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value


def json_line(value: Any) -> None:
    """Write one object as one line, at once."""
    click.echo(json.dumps(plain(value), ensure_ascii=False, allow_nan=False))
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Write a table, or the sentence `empty`."""
    if not rows:
        click.echo(empty)
        return
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(column, overflow="fold", no_wrap=not sys.stdout.isatty())
    for row in rows:
        drawn.add_row(*(cell(one) for one in row))
    _console().print(drawn)


def fields(pairs: Sequence[tuple[str, object]]) -> None:
    """Write names and values, one a line; those without a value are left out."""
    shown = [(name, cell(value)) for name, value in pairs if value not in (None, "", {}, [], ())]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        first, *rest = value.splitlines() or [""]
        click.echo(f"{click.style(f'{name:<{width}}', dim=True)}  {first}")
        for line in rest:
            click.echo(f"{'':<{width}}  {line}")


def cell(value: object) -> str:
    """Return a value as a person reads it."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, str):
        return value
    return json.dumps(plain(value), ensure_ascii=False)


def note(sentence: str) -> None:
    """Say something to the person, beside the output."""
    click.echo(sentence, err=True)


def refusal(error: HoldfastError) -> str:
    """Return an error as one sentence, with its reason and the fields it names."""
    said = error.message.rstrip(".") or f"the call failed with {error.code}"
    if error.code == "UNAVAILABLE" and not error.reason:
        said = f"no service answers; is one running at the address that was meant? ({said})"
    named = [f"{v.field}: {v.description}" for v in error.violations if v.description not in said]
    tail = f"; {'; '.join(named)}" if named else ""
    facts = ", ".join(
        f"{name}: {value}" for name, value in error.facts.items() if value and value not in said
    )
    more = f" ({facts})" if facts else ""
    return f"{error.reason or error.code}: {said}{tail}{more}."


def _console() -> Any:
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=10_000, soft_wrap=True)
