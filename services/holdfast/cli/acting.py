"""Which runs a command means: one by its id, or all that match, which are only shown without `--yes`."""

import functools
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import click

from holdfast.cli import exit_code
from holdfast.cli.given import Pair, Seconds
from holdfast.cli.output import json_line, note
from holdfast.cli.target import Target
from holdfast.client import Acted, Action, RunStatus, Which

F = TypeVar("F", bound=Callable[..., Any])
Verb = Callable[..., Coroutine[Any, Any, int | None]]

_STATUSES: Final = [status.name for status in RunStatus if status]
_FILTERS: Final = ("statuses", "intent", "session", "correlation_id", "parent", "labels", "since")
_OPTIONS: Final = (
    click.option(
        "--status",
        "statuses",
        type=click.Choice(_STATUSES, case_sensitive=False),
        multiple=True,
        help="In this status; repeatable.",
    ),
    click.option("--intent", default="", help="For this intent."),
    click.option("--session", default="", help="Of this conversation."),
    click.option("--correlation-id", default="", help="Of this correlation id."),
    click.option("--parent", default="", help="Started by this run, as its children."),
    click.option("--label", "labels", type=Pair(), multiple=True, help="With this label; repeatable."),
    click.option("--since", type=Seconds(), help="Accepted within this time."),
)
SHOWN: Final = 20
"""Ids that are shown of the runs that match."""


def filters(command: F) -> F:
    """Add the options that say which runs."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def which_of(
    *,
    statuses: tuple[str, ...],
    intent: str,
    session: str,
    correlation_id: str,
    parent: str,
    labels: tuple[tuple[str, str], ...],
    since: float | None,
) -> Which:
    """Return the filter that was typed."""
    return Which(
        statuses=[RunStatus[status] for status in statuses],
        intent=intent,
        session_id=session,
        correlation_id=correlation_id,
        parent_run_id=parent,
        labels=dict(labels),
        created_from=datetime.now(UTC) - timedelta(seconds=since) if since else None,
    )


def one_or_all(action: Action) -> Callable[[Verb], Verb]:
    """Let a command of `command(target, run_id, …)` mean all runs that match, where it is given no id."""

    def made(command: Verb) -> Verb:
        @click.argument("run_id", required=False)
        @filters
        @click.option("--yes", is_flag=True, help="Do it with all that match; else they are only shown.")
        @click.option(
            "--limit", type=click.IntRange(1), default=1000, show_default=True, help="At most so many."
        )
        @click.option("--max-per-second", type=click.FloatRange(0), default=0.0, help="No faster than this.")
        @functools.wraps(command)
        async def run(
            target: Target, *, run_id: str | None, yes: bool, limit: int, max_per_second: float, **given: Any
        ) -> int | None:
            said = {name: given.pop(name) for name in _FILTERS}
            if run_id is not None:
                if any(said.values()) or yes:
                    raise click.UsageError("Either RUN_ID, or options that say which runs.")
                return await command(target, run_id=run_id, **given)
            if not any(said.values()):
                raise click.UsageError("Say which runs: RUN_ID, or options as --status and --intent.")
            reason = given.pop("reason", "")
            if of_one := next((name for name, value in given.items() if value is not None), None):
                raise click.UsageError(f"--{of_one.replace('_', '-')} is for one run.")
            async with target.client() as client:
                acted = None
                async for acted in client.act_on_runs(
                    action,
                    apply=yes,
                    reason=reason,
                    limit=limit,
                    max_per_second=max_per_second,
                    **which_of(**said),
                ):
                    _tell(target, action, acted, yes=yes)
            return exit_code.OK if acted is None or not acted.skipped else exit_code.REFUSED

        return run

    return made


def _tell(target: Target, action: Action, acted: Acted, *, yes: bool) -> None:
    if target.form == "json":
        json_line(acted)
        return
    for skipped in acted.skipped_runs:
        note(f"{skipped.run_id}: {skipped.reason}: {skipped.message}")
    if not yes:
        before = acted.matched - len(acted.run_ids)
        for run_id in acted.run_ids[: max(0, SHOWN - before)]:
            click.echo(run_id)
    if acted.finished:
        done = f"{action}: {acted.done} done, {acted.skipped} passed over"
        matching = "1 run matches" if acted.matched == 1 else f"{acted.matched} runs match"
        click.echo(done if yes else f"{matching}; --yes does it: {action}")
    elif yes:
        note(f"{acted.done} done, {acted.skipped} passed over …")
