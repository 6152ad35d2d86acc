"""`holdfast batch`: many items over one intent."""

import sys
from pathlib import Path
from typing import Any, Literal

import click

from holdfast.cli.batch_review import apply, review, rollback, sample
from holdfast.cli.batch_screen import BatchScreen, more, plain_progress
from holdfast.cli.batch_spec import spec_of, specified
from holdfast.cli.given import Limits, Pair, Rate
from holdfast.cli.output import fields, json_line, note, plain, table
from holdfast.cli.target import Target, speaks
from holdfast.client import (
    ApplyEffect,
    ApplyTarget,
    Batch,
    BatchItemStatus,
    BatchProgress,
    BatchStatus,
    Budget,
    Invocation,
    ItemFile,
)

_STATUS = click.Choice([status.name.lower() for status in BatchItemStatus if status], case_sensitive=False)


@click.group()
def command() -> None:
    """Send many items, run them as many at a time as you say, and follow them."""


@command.command()
@click.argument("intent")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--source", default="", help="Read the items from this source in place of FILE.")
@click.option("--key", default="", help="The column or field that is an item's key.")
@click.option("--name", default="", help="A name for people.")
@click.option(
    "--idempotency-key", default="", help="Makes this command repeatable: it goes on with that batch."
)
@specified
@click.option("--budget", type=Limits(), help="Of each item, as max_steps=10,deadline=30s.")
@click.option("--label", "labels", type=Pair(), multiple=True, help="A label of the batch; repeatable.")
@click.option("--start", is_flag=True, help="Start it as soon as all items are here.")
@speaks
async def create(
    target: Target, intent: str, file: Path | None, source: str, budget: Budget | None, **given: Any
) -> None:
    """Send FILE (.csv with a header, or JSON lines) as a batch over INTENT, or let it read a source."""
    if (file is None) == (not source):
        raise click.UsageError("Give a FILE of items, or their --source.")
    if source and given["key"]:
        raise click.UsageError("--key has a meaning beside a FILE only: a source has its own.")
    spec = spec_of(
        Invocation(intent, budget=budget),
        given,
        source=source,
        display_name=given["name"],
        idempotency_key=given["idempotency_key"],
        labels=dict(given["labels"]),
        start_when_uploaded=given["start"],
    )
    async with target.client() as client:
        if file is None:
            batch = await client.batches.create(spec)
        else:
            with file.open("rb") as opened:
                items = ItemFile(opened, is_csv=file.suffix.lower() == ".csv", key=given["key"])
                batch = await client.batches.create(spec, items)
    _show(target, batch)


@command.command("list")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most this many.")
@click.option("--intent", default="", help="Over this intent.")
@speaks
async def list_batches(target: Target, limit: int, intent: str) -> None:
    """List batches, the newest first."""
    shown: list[Batch] = []
    async with target.client() as client:
        async for batch in client.batches.list(intent=intent, page_size=min(limit, 200)):
            if target.form == "json":
                json_line(batch)
            shown.append(batch)
            if len(shown) == limit:
                break
    if target.form == "table":
        rows = [
            (b.batch_id, b.display_name, b.intent, b.status, b.uploaded_items, b.create_time) for b in shown
        ]
        table(["BATCH", "NAME", "INTENT", "STATUS", "ITEMS", "CREATED"], rows, empty="No batches.")


@command.command()
@click.argument("batch_id")
@speaks
async def get(target: Target, batch_id: str) -> None:
    """Show a batch and how far it is."""
    async with target.client() as client:
        batch, progress = await client.batches.get(batch_id)
    _show(target, batch, progress)


@command.command()
@click.argument("batch_id")
@click.option(
    "--interval", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, help="In seconds."
)
@speaks
async def watch(target: Target, batch_id: str, interval: float) -> None:
    """Follow a batch until it needs somebody or has ended."""
    with BatchScreen(target.form) as screen:
        async with target.client() as client, client.batches.watch(batch_id, interval=interval) as updates:
            async for batch, progress in updates:
                screen.show(batch, progress)
                if batch.status in (BatchStatus.IN_REVIEW, BatchStatus.PAUSED):
                    break


@command.command()
@click.argument("batch_id")
@click.option("--status", "statuses", type=_STATUS, multiple=True, help="Standing there; repeatable.")
@click.option("--label", default="", help="With this class of output.")
@click.option("--reason", default="", help="Failed for this reason.")
@click.option("--changed", is_flag=True, help="Whose output differs from what is there.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most this many.")
@speaks
async def items(target: Target, batch_id: str, statuses: tuple[str, ...], limit: int, **which: Any) -> None:
    """List items in order."""
    rows: list[tuple[object, ...]] = []
    wanted = [BatchItemStatus[name.upper()] for name in statuses]
    async with target.client() as client:
        found = client.batches.items(
            batch_id,
            statuses=wanted,
            label=which["label"],
            failure_reason=which["reason"],
            changed=which["changed"],
            page_size=min(limit, 200),
        )
        async for item in found:
            if target.form == "json":
                json_line(item)
            why = item.failure.reason if item.failure else ""
            rows.append((item.index, item.key, item.status, item.label, item.attempts, item.run_id, why))
            if len(rows) == limit:
                break
    if target.form == "table":
        columns = ["INDEX", "KEY", "STATUS", "LABEL", "TRIES", "RUN", "REASON"]
        table(columns, rows, empty="No items.")


@command.command()
@click.argument("batch_id")
@speaks
async def start(target: Target, batch_id: str) -> None:
    """Start a batch whose items are all here."""
    async with target.client() as client:
        _show(target, await client.batches.start(batch_id))


@command.command()
@click.argument("batch_id")
@click.option("--reason", default="", help="Why.")
@speaks
async def pause(target: Target, batch_id: str, reason: str) -> None:
    """Start no further items; those in flight end."""
    async with target.client() as client:
        _show(target, await client.batches.pause(batch_id, reason))


@command.command()
@click.argument("batch_id")
@speaks
async def resume(target: Target, batch_id: str) -> None:
    """Go on where a batch was paused; failures until now count no longer."""
    async with target.client() as client:
        _show(target, await client.batches.resume(batch_id))


@command.command()
@click.argument("batch_id")
@click.option("--reason", default="", help="Why.")
@speaks
async def cancel(target: Target, batch_id: str, reason: str) -> None:
    """End a batch: what waits is not run, what runs is cancelled."""
    async with target.client() as client:
        _show(target, await client.batches.cancel(batch_id, reason))


@command.command()
@click.argument("batch_id")
@click.option("--parallelism", type=click.IntRange(1), help="Items in flight at one time.")
@click.option("--priority", type=click.IntRange(0, 9), help="Of the items started next.")
@click.option("--rate", type=Rate(), help="Items applied at most, as 100/s; 0: as fast as they are taken.")
@speaks
async def update(
    target: Target, batch_id: str, parallelism: int | None, priority: int | None, rate: float | None
) -> None:
    """Change a batch while it runs or is applied."""
    if parallelism is None and priority is None and rate is None:
        raise click.UsageError("Say what shall change, as --parallelism 50.")
    async with target.client() as client:
        changed = await client.batches.update(
            batch_id, max_parallelism=parallelism, priority=priority, apply_items_per_second=rate
        )
        _show(target, changed)


@command.command()
@click.argument("batch_id")
@click.option("--reason", default="", help="Only those that failed for this reason.")
@click.option("--key", "keys", multiple=True, help="Only these; repeatable.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@speaks
async def retry(target: Target, batch_id: str, reason: str, keys: tuple[str, ...], *, dry_run: bool) -> None:
    """Run skipped items again."""
    async with target.client() as client:
        batch, count = await client.batches.retry(batch_id, failure_reason=reason, keys=keys, dry_run=dry_run)
    if target.form == "json":
        json_line({"items": count, "status": batch.status})
    else:
        note(f"{count:,} items {'would be' if dry_run else 'are'} tried again.")


@command.command()
@click.argument("batch_id")
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.option("--status", "statuses", type=_STATUS, multiple=True, help="Standing there; repeatable.")
@speaks
async def export(
    target: Target, batch_id: str, form: Literal["jsonl", "csv"], statuses: tuple[str, ...]
) -> None:
    """Write the items to standard output."""
    wanted = [BatchItemStatus[name.upper()] for name in statuses]
    async with target.client() as client:
        async for part in client.batches.export(batch_id, form=form, statuses=wanted):
            sys.stdout.buffer.write(part)
    sys.stdout.flush()


for verb in (sample, review, apply, rollback):
    command.add_command(verb)


def _where(apply: ApplyTarget | None) -> str:
    """Return what becomes of accepted outputs, unless whoever applies them says otherwise."""
    if apply is None:
        return ""
    if isinstance(apply, ApplyEffect):
        undo = f", undone by {apply.undo_destination}" if apply.undo_destination else ""
        return f"to {apply.destination}{undo}"
    undo = f", undone by runs for {apply.undo.intent}" if apply.undo is not None else ""
    return f"to runs for {apply.run.intent}{undo}"


def _show(target: Target, batch: Batch, progress: BatchProgress | None = None) -> None:
    if target.form == "json":
        json_line(plain(batch) | ({"progress": plain_progress(progress)} if progress else {}))
        return
    shown: list[tuple[str, object]] = [
        ("batch", batch.batch_id),
        ("name", batch.display_name),
        ("intent", batch.intent),
        ("status", batch.status),
        ("paused because", batch.pause_reason),
        ("source", batch.source and batch.source.source),
        ("cannot be read", batch.source_error),
        ("schedule", batch.schedule),
        ("items", batch.uploaded_items),
        ("in flight at most", batch.max_parallelism),
        ("outputs go", _where(batch.apply)),
        ("started", batch.start_time),
        ("ended", batch.end_time),
    ]
    if progress is not None:
        shown.append(("progress", more(progress)))
        shown += [(f"failed: {group.reason}", f"{group.count:,}") for group in progress.errors]
    fields(shown)
