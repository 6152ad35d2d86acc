"""`holdfast batch sample|review|apply|rollback`: what people do with the outputs of a batch."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from holdfast.cli.batch_screen import BatchScreen, plain_progress
from holdfast.cli.given import Rate, json_value
from holdfast.cli.output import cell, json_line, note, table
from holdfast.cli.person import as_person
from holdfast.cli.target import Target, speaks
from holdfast.client import (
    ApplyEffect,
    ApplyTarget,
    Batch,
    BatchItem,
    BatchStatus,
    Client,
    FollowUp,
    Invocation,
    ItemReview,
    Person,
    Stratum,
)

AT_ONCE = 1000
_WIDEST = 60


class Bounds(click.ParamType[tuple[float, ...]]):
    """Rising numbers with commas between: `0.5,0.9`."""

    name = "bounds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the numbers."""
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not numbers with commas between, as 0.5,0.9.", param, ctx)


@click.command()
@click.argument("batch_id")
@click.option("--size", type=click.IntRange(1, 1000), default=200, show_default=True, help="How many items.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed draws the same items.")
@click.option("--by-label", is_flag=True, help="Spread over the classes of output.")
@click.option("--confidence", type=Bounds(), default=None, help="Over bands of confidence, as 0.5,0.9.")
@click.option("--cost", type=Bounds(), default=None, help="Over bands of cost, as 0.001,0.01.")
@click.option("--tokens", type=Bounds(), default=None, help="Over bands of tokens, as 1000,5000.")
@click.option("--equal", is_flag=True, help="As many of each stratum, so that rare ones are seen.")
@click.option("--unjudged", is_flag=True, help="Only of those nobody has judged.")
@speaks
async def sample(target: Target, batch_id: str, size: int, seed: int, **given: Any) -> None:
    """Draw staged items to look at; -o json gives lines for `review --file`, once they have a verdict."""
    async with target.client() as client:
        strata = await client.batches.sample(
            batch_id,
            size,
            seed=seed,
            by_label=given["by_label"],
            confidence_bounds=given["confidence"] or (),
            cost_bounds=given["cost"] or (),
            token_bounds=[int(bound) for bound in given["tokens"] or ()],
            equal=given["equal"],
            unjudged_only=given["unjudged"],
        )
    if target.form == "json":
        for stratum in strata:
            for item in stratum.items:
                json_line(_drawn(stratum, item))
        return
    rows = [
        (item.index, item.key, item.label, item.confidence, item.status, _short(item.output), _changes(item))
        for stratum in strata
        for item in stratum.items
    ]
    table(["INDEX", "KEY", "LABEL", "SURE", "STATUS", "OUTPUT", "CHANGES"], rows, empty="Nothing is staged.")
    for stratum in strata:
        bands = f"confidence band {stratum.confidence_band}, cost band {stratum.cost_band}"
        note(f"{len(stratum.items):,} of {stratum.population:,}: {stratum.label or 'all labels'}, {bands}")


@click.command()
@click.argument("batch_id")
@click.option("--accept", "accepted", type=int, multiple=True, help="The index of an item; repeatable.")
@click.option("--reject", "rejected", type=int, multiple=True, help="The same, with --reason.")
@click.option(
    "--edit",
    "edited",
    type=(int, str),
    metavar="INDEX OUTPUT",
    multiple=True,
    help="Accept this one with another output, JSON or @file; repeatable.",
)
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Lines of JSON with index, verdict (accept or reject), and reason or edited_output.",
)
@click.option("--rest", type=click.Choice(["accept", "reject"]), help="For all that nobody has judged.")
@click.option("--reason", default="", help="Why, of --reject and --rest reject.")
@as_person
@speaks
async def review(target: Target, batch_id: str, rest: str | None, reason: str, **given: Any) -> None:
    """Accept, reject or edit staged outputs; the last word holds until an item is being applied."""
    reviews = list(_reviews(given, reason))
    if not reviews and rest is None:
        raise click.UsageError("Say what about which items, as --accept 3 or --rest accept.")
    who = Person(given["user"], tuple(given["groups"]), tuple(given["roles"]))
    async with target.client() as client:
        while len(reviews) > AT_ONCE:
            await client.batches.review(batch_id, reviews[:AT_ONCE], reviewer=who)
            del reviews[:AT_ONCE]
        done = await client.batches.review(
            batch_id,
            reviews,
            rest=None if rest is None else rest == "accept",
            rest_reason=reason if rest == "reject" else "",
            reviewer=who,
        )
    if target.form == "json":
        said = {"judged": done.judged, "accepted": done.accepted, "policy_met": done.policy_met}
        json_line(said | {"progress": plain_progress(done.progress)})
        return
    share = f", {done.accepted / done.judged:.1%}" if done.judged else ""
    note(f"{done.judged:,} judged one by one, {done.accepted:,} of them accepted{share}.")
    if done.policy_met:
        note("The review policy is met: the rest is accepted.")


@click.command()
@click.argument("batch_id")
@click.option("--to", "destination", default="", help="The destination that is given each accepted output.")
@click.option("--undo", "undo_destination", default="", help="The destination that undoes one.")
@click.option("--run", "intent", default="", help="A run of this intent for each, in place of an effect.")
@click.option("--undo-run", "undo_intent", default="", help="The intent of a run that undoes one.")
@click.option("--rate", type=Rate(), default=0.0, help="At most so many, as 100/s.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--watch", "follows", is_flag=True, help="Follow it until it has ended.")
@speaks
async def apply(target: Target, batch_id: str, rate: float, **given: Any) -> None:
    """Apply accepted outputs, each once: to --to or --run, or as the batch was created for."""
    if given["destination"] and given["intent"]:
        raise click.UsageError("Say one of --to and --run.")
    if given["undo_intent"] and not given["intent"]:
        raise click.UsageError("--undo-run has a meaning beside --run only.")
    wanted: ApplyTarget | None = None
    if given["destination"]:
        wanted = ApplyEffect(given["destination"], given["undo_destination"])
    elif given["intent"]:
        undo = Invocation(given["undo_intent"]) if given["undo_intent"] else None
        wanted = FollowUp(Invocation(given["intent"]), undo)
    async with target.client() as client:
        batch, count = await client.batches.apply(
            batch_id, wanted, items_per_second=rate, dry_run=given["dry_run"]
        )
        _say(target, batch, count, "applied", dry_run=given["dry_run"])
        if given["follows"] and not given["dry_run"]:
            await _follow(target, client, batch_id)


@click.command()
@click.argument("batch_id")
@click.option("--reason", required=True, help="Why.")
@click.option("--label", default="", help="Only those of this class.")
@click.option("--key", "keys", multiple=True, help="Only these; repeatable.")
@click.option("--max-confidence", type=click.FloatRange(0, 1), default=0.0, help="Only those less sure.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--watch", "follows", is_flag=True, help="Follow it until it has ended.")
@speaks
async def rollback(target: Target, batch_id: str, reason: str, **given: Any) -> None:
    """Undo what was applied, the newest first."""
    async with target.client() as client:
        batch, count = await client.batches.rollback(
            batch_id,
            reason,
            label=given["label"],
            keys=given["keys"],
            max_confidence=given["max_confidence"],
            dry_run=given["dry_run"],
        )
        _say(target, batch, count, "undone", dry_run=given["dry_run"])
        if given["follows"] and not given["dry_run"]:
            await _follow(target, client, batch_id)


def _say(target: Target, batch: Batch, count: int, what: str, *, dry_run: bool) -> None:
    if target.form == "json":
        json_line({"items": count, "status": batch.status})
    else:
        note(f"{count:,} items {'would be' if dry_run else 'are'} {what}.")


async def _follow(target: Target, client: Client, batch_id: str) -> None:
    with BatchScreen(target.form) as screen:
        async with client.batches.watch(batch_id, interval=0.5) as updates:
            async for batch, progress in updates:
                screen.show(batch, progress)
                if batch.status is BatchStatus.PAUSED:
                    break


def _reviews(given: dict[str, Any], reason: str) -> Iterator[ItemReview]:
    for index in given["accepted"]:
        yield ItemReview(index, accepted=True)
    for index in given["rejected"]:
        yield ItemReview(index, accepted=False, reason=reason)
    for index, output in given["edited"]:
        yield ItemReview(index, accepted=True, edited=json_value(output))
    if given["file"] is not None:
        with given["file"].open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _review(line, number)


def _review(line: str, number: int) -> ItemReview:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise click.UsageError(f"Line {number} is not JSON: {error}.") from error
    verdict = str(found.get("verdict", "")).lower() if isinstance(found, dict) else ""
    if verdict not in ("accept", "reject") or not isinstance(found.get("index"), int):
        raise click.UsageError(f"Line {number} needs an index and a verdict, accept or reject.")
    return ItemReview(
        found["index"],
        accepted=verdict == "accept",
        reason=str(found.get("reason", "")),
        edited=found.get("edited_output"),
    )


def _drawn(stratum: Stratum, item: BatchItem) -> dict[str, Any]:
    return {
        "index": item.index,
        "key": item.key,
        "label": item.label,
        "confidence": item.confidence,
        "confidence_band": stratum.confidence_band,
        "cost_band": stratum.cost_band,
        "population": stratum.population,
        "payload": item.payload,
        "current": item.current,
        "output": item.output,
        "changes": item.changes,
        "status": item.status,
    }


def _changes(item: BatchItem) -> str:
    found = (f"{each.path}: {_short(each.before)} -> {_short(each.after)}" for each in item.changes)
    return "; ".join(found)


def _short(value: object) -> str:
    text = cell(value)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"
