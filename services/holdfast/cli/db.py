"""`holdfast db`: the ledger's schema, forward only."""

from collections.abc import Callable
from typing import Any

import click

from holdfast.cli import exit_code
from holdfast.cli.database import choose_database, unreachable
from holdfast.cli.output import json_line, note, table
from holdfast.cli.target import finish

_URL = click.option("--database-url", help="The ledger, as its owner (or HOLDFAST_DATABASE_URL).")
_FORM = click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True
)


@click.group()
def command() -> None:
    """Migrate the ledger's database."""


@command.command()
@_URL
@_FORM
@click.option(
    "--phase", type=click.Choice(["before", "after"]), help="Only what belongs before or after a rollout."
)
def migrate(database_url: str | None, output: str, phase: Any) -> None:
    """Apply what is missing.

    Repeatable, and safe to run from several places at the same time.
    """
    from holdfast import ledger

    async def work() -> int:
        applied = await ledger.migrate(choose_database(database_url), phase=phase)
        if output == "json":
            json_line({"applied": applied})
        else:
            table(["APPLIED"], [(name,) for name in applied], empty="Nothing to apply.")
        return exit_code.OK

    _finish(work)


@command.command()
@_URL
@_FORM
def status(database_url: str | None, output: str) -> None:
    """Say which migrations are applied; exit code 1 if one is missing."""
    from holdfast.ledger.migrate import status as read

    async def work() -> int:
        found = await read(choose_database(database_url))
        rows = [(one.name, one.phase, one.apply_time) for one in found]
        if output == "json":
            for name, phase, time in rows:
                json_line({"name": name, "phase": phase, "apply_time": time})
        else:
            table(["MIGRATION", "PHASE", "APPLIED"], rows, empty="No migrations.")
        return exit_code.OK if all(time for *_, time in rows) else exit_code.UNWELL

    _finish(work)


def _finish(work: Callable[[], Any]) -> None:
    from holdfast.ledger.migrate import MigrationError

    async def told() -> int:
        try:
            code: int = await work()
        except MigrationError as error:
            note(f"Error: {error}")
            return exit_code.REFUSED
        except Exception as error:
            if (sentence := unreachable(error)) is None:
                raise
            note(f"Error: {sentence}")
            return exit_code.UNAVAILABLE
        return code

    finish(told())
