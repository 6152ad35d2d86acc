"""What a run has recorded, and a new run from there: `runs checkpoints`, `runs fork`."""

from collections.abc import Mapping
from typing import Any

import click

from holdfast.cli.given import Pair, json_value
from holdfast.cli.output import cell, fields, json_line, plain, table
from holdfast.cli.target import Target, speaks
from holdfast.client import Checkpoint, Run

_SHOWN = 60
"""Characters of an input or output in a table."""


@click.command()
@click.argument("run_id")
@speaks
async def checkpoints(target: Target, run_id: str) -> None:
    """List what a run has recorded, in order; its positions are what a fork is made from."""
    found: list[Checkpoint] = []
    async with target.client() as client:
        async for checkpoint in client.list_checkpoints(run_id):
            if target.form == "json":
                json_line(checkpoint)
            else:
                found.append(checkpoint)
    if target.form == "table":
        columns = ["AT", "STEP", "KIND", "TRIES", "TIME", "TOKENS", "INPUT", "OUTPUT"]
        table(columns, [_row(one) for one in found], empty="No checkpoints.")


@click.command()
@click.argument("run_id")
@click.option(
    "--at", "position", type=click.IntRange(1), required=True, help="Keep the steps up to this one."
)
@click.option(
    "--set",
    "outputs",
    type=Pair(),
    multiple=True,
    help="A kept step's other output, as STEP=JSON; repeatable.",
)
@click.option("--key", "idempotency_key", default="", help="The idempotency key: the same key forks once.")
@speaks
async def fork(
    target: Target, run_id: str, *, position: int, outputs: tuple[tuple[str, str], ...], idempotency_key: str
) -> None:
    """Start a new run from a checkpoint of RUN_ID, with edited outputs."""
    edited: Mapping[str, Any] = {step: json_value(text) for step, text in outputs}
    async with target.client() as client:
        handle = await client.fork(run_id, position, outputs=edited, idempotency_key=idempotency_key)
    if target.form == "json":
        json_line({**plain(handle.run), "reattached": handle.reattached})
    else:
        _show(handle.run, reattached=handle.reattached)


def _show(run: Run, *, reattached: bool) -> None:
    origin = run.forked_from
    fields(
        [
            ("run", run.run_id),
            ("status", run.status.name + (" (made by an earlier call)" if reattached else "")),
            ("forked from", origin and f"{origin.run_id} at {origin.position}"),
            ("version", run.agent_version),
            ("steps", f"{run.usage.steps} of {run.budget.max_steps}"),
            ("deadline", run.deadline_time),
        ]
    )


def _row(one: Checkpoint) -> tuple[object, ...]:
    failure = one.failure
    outcome = cell(one.output) if failure is None else f"{failure.reason}: {failure.message}"
    return (
        one.position,
        one.key,
        one.kind,
        one.attempts,
        f"{one.duration * 1000:.0f} ms",
        one.usage.tokens,
        _short("" if one.input is None else cell(one.input)),
        _short(outcome),
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
