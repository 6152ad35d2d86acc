"""`holdfast events`: publish events, each of which starts a run unless its key already has."""

import click

from holdfast.cli import exit_code
from holdfast.cli.given import json_lines
from holdfast.cli.output import json_line, note, plain, refusal, table
from holdfast.cli.target import Target, speaks
from holdfast.client import HoldfastError, Published, RefusedEvent


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


def _why(error: HoldfastError) -> str:
    """Return reason and sentence; the field of a refused event has no other sentence."""
    return f"{error.reason}: {error.message}"


@command.command()
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most this many.")
@speaks
async def refused(target: Target, limit: int) -> None:
    """List events that were staged, or that a source received, and could not become runs, oldest first."""
    shown: list[RefusedEvent] = []
    async with target.client() as client:
        async for event in client.refused_events.list(page_size=min(limit, 200)):
            if target.form == "json":
                json_line({**plain(event), "refusal": _why(event.refusal)})
            shown.append(event)
            if len(shown) == limit:
                break
    if target.form == "table":
        rows = [
            (one.event_id, one.source, one.intent, one.idempotency_key, one.create_time, _why(one.refusal))
            for one in shown
        ]
        table(["EVENT", "SOURCE", "INTENT", "KEY", "RECEIVED", "WHY"], rows, empty="No refused events.")


@command.command()
@click.argument("event_ids", metavar="EVENT...", type=int, nargs=-1, required=True)
@speaks
async def retry(target: Target, event_ids: tuple[int, ...]) -> None:
    """Send refused events through the door again, once their cause is gone."""
    async with target.client() as client:
        for event_id in event_ids:
            json_line({"event_id": await client.refused_events.retry(event_id), "was": event_id})


@command.command()
@click.argument("event_ids", metavar="EVENT...", type=int, nargs=-1, required=True)
@speaks
async def discard(target: Target, event_ids: tuple[int, ...]) -> None:
    """Give up refused events."""
    async with target.client() as client:
        for event_id in event_ids:
            await client.refused_events.discard(event_id)
            note(f"{event_id} is gone.")
