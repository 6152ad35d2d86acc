"""`holdfast events`: publish events, each of which starts a run unless its key already has."""

import click

from holdfast.cli import exit_code
from holdfast.cli.given import json_lines
from holdfast.cli.output import json_line, note, refusal, table
from holdfast.cli.target import Target, speaks
from holdfast.client import HoldfastError, Published


@click.group()
def command() -> None:
    """Publish events that start runs."""


@command.command()
@click.option("-d", "--data", default="-", help="JSON lines: text, @file, or - (default) for standard input.")
@speaks
async def publish(target: Target, data: str) -> int:
    """Publish events.

    One envelope a line, each with an intent and its own idempotency_key: the same key starts one run.
    """
    events = list(json_lines(data))
    if not events:
        note("Error: there are no events to publish.")
        return exit_code.USAGE
    async with target.client() as client:
        answers = await client.publish(events)
    if target.form == "json":
        for answer in answers:
            json_line(answer)
    else:
        keys = [str(event.get("idempotency_key") or event.get("idempotencyKey") or "") for event in events]
        rows = [(key, answer.run_id, _fate(answer)) for key, answer in zip(keys, answers, strict=True)]
        table(["KEY", "RUN", "FATE"], rows, empty="No events.")
    return exit_code.REFUSED if any(answer.refusal for answer in answers) else exit_code.OK


def _fate(answer: Published) -> str:
    if isinstance(answer.refusal, HoldfastError):
        return refusal(answer.refusal)
    return "duplicate" if answer.duplicate else "accepted"
