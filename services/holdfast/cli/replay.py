"""`holdfast replay`: says whether the code that is here now still fits the runs that are recorded."""

import sys
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from holdfast.cli import exit_code
from holdfast.cli.given import Seconds
from holdfast.cli.output import json_line, note, table
from holdfast.cli.replaying import Judged, agents_of, judge_all
from holdfast.cli.target import Target, speaks
from holdfast.client import Client, Run, RunStatus

_STATUSES: Final = [status.name for status in RunStatus if status]
_LIMIT: Final = 100
_LONGEST_PAGE: Final = 200
_NAMED: Final = 3
"""How many of the steps that nobody asked for a table names."""


@click.command()
@click.argument("run_ids", metavar="[RUN_ID]...", nargs=-1)
@click.option(
    "--agents", multiple=True, required=True, metavar="MODULE:APP", help="Whose agents; repeatable."
)
@click.option("--since", type=Seconds(), help="Runs accepted within this time.")
@click.option("--intent", default="", help="Runs for this intent.")
@click.option("--status", "statuses", type=click.Choice(_STATUSES, case_sensitive=False), multiple=True)
@click.option("--limit", type=click.IntRange(1), help="At most this many runs, the newest; default 100.")
@click.option(
    "--patience",
    type=Seconds(),
    default="10s",
    show_default=True,
    help="What a run's code between its steps may take.",
)
@speaks
async def command(
    target: Target,
    *,
    run_ids: tuple[str, ...],
    agents: tuple[str, ...],
    patience: float,
    **chosen: Any,
) -> int:
    """Replay runs against the agents here, executing no step; exit code 1 if the code does not fit one.

    Without RUN_IDs, runs of the intents that the agents serve are replayed: ended ones and those going on.
    Code between steps does run.
    """
    if run_ids and any(chosen.values()):
        raise click.UsageError(
            "RUN_IDs name the runs; --since, --intent, --status and --limit choose among all."
        )
    if not patience:
        raise click.UsageError("--patience must be more than 0 seconds.")
    with agents_of(agents) as apps:
        async with target.client() as client:
            if run_ids:
                runs = await _named(client, apps, run_ids)
            else:
                runs = await _listed(client, apps, **chosen)
            progress = _Progress(len(runs))
            try:
                found = await judge_all(client, apps, runs, patience=patience, judged=progress.show)
            finally:
                progress.clear()
    _show(target, found)
    return exit_code.UNWELL if any(one.fine is False for one in found) else exit_code.OK


async def _named(client: Client, apps: Collection[str], run_ids: Sequence[str]) -> list[Run]:
    """Return the runs that were named, once each. Raises ValueError for one that the agents do not serve."""
    runs = [await client.get_run(run_id) for run_id in dict.fromkeys(run_ids)]
    for run in runs:
        if run.intent not in apps:
            raise ValueError(f"Run {run.run_id} is for the intent {run.intent}, which no agent here serves.")
    return runs


async def _listed(
    client: Client,
    apps: Collection[str],
    *,
    since: float | None,
    intent: str,
    statuses: tuple[str, ...],
    limit: int | None,
) -> list[Run]:
    """Return the newest runs that match, of all intents that the agents serve together."""
    if intent and intent not in apps:
        raise ValueError(f"No agent here serves the intent {intent}; served: {', '.join(sorted(apps))}.")
    limit = limit or _LIMIT
    oldest = None if since is None else datetime.now(UTC) - timedelta(seconds=since)
    found: list[Run] = []
    for one in [intent] if intent else sorted(apps):
        listing = client.list_runs(
            statuses=[RunStatus[status] for status in statuses],
            intent=one,
            created_from=oldest,
            page_size=min(limit, _LONGEST_PAGE),
        )
        count = 0
        async for run in listing:
            found.append(run)
            count += 1
            if count == limit:
                break
    found.sort(key=lambda run: run.create_time or datetime.now(UTC), reverse=True)
    return found[:limit]


def _show(target: Target, found: Sequence[Judged]) -> None:
    if target.form == "json":
        for one in found:
            json_line(one)
        return
    columns = ["RUN", "INTENT", "STATUS", "VERDICT", "STEP", "WHAT"]
    rows = [(one.run_id, one.intent, one.status, one.verdict, one.step, _what(one)) for one in found]
    table(columns, rows, empty="No runs.")
    if found:
        note(_sum(found))


def _what(one: Judged) -> str:
    said = [one.message] if one.message else []
    if one.leftover:
        more = len(one.leftover) - _NAMED
        named = ", ".join(one.leftover[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        said.append(f"recorded and not asked for: {named}")
    return "; ".join(said)


def _sum(found: Sequence[Judged]) -> str:
    """Say in one sentence how it stands."""
    unfit = sum(one.fine is False for one in found)
    unjudged = sum(one.fine is None for one in found)
    runs = f"{len(found)} run{'' if len(found) == 1 else 's'}"
    left = f" {unjudged} could not be judged." if unjudged else ""
    return f"The code does not fit {unfit} of {runs}.{left}" if unfit else f"No misfit in {runs}.{left}"


class _Progress:
    """How far it is, on one line of a terminal's standard error; nothing anywhere else."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._shown = False

    def show(self, done: int) -> None:
        """Show how many runs are replayed."""
        if sys.stderr.isatty():
            click.echo(f"\r{done} of {self._total} replayed", nl=False, err=True)
            self._shown = True

    def clear(self) -> None:
        """Make room for what follows. Repeatable."""
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
            self._shown = False
