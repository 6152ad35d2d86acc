"""`holdfast schedules`: runs and batches that start by themselves."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click
from click.core import ParameterSource

from holdfast.cli.batch_spec import NAMES, spec_of, specified
from holdfast.cli.given import Limits, Pair, Seconds
from holdfast.cli.invoke import invocation_of
from holdfast.cli.output import fields, json_line, table
from holdfast.cli.schedule_screen import batch_of, latest_of, none_of, rule_of, show
from holdfast.cli.target import Target, speaks
from holdfast.client import BatchSpec, Invocation, OverlapPolicy, Schedule, Timing

_POLICIES: Final = {"skip": "SKIP", "queue": "QUEUE", "cancel-older": "CANCEL_OLDER"}


class Moment(click.ParamType[datetime]):
    """A time: `2026-12-24T18:00Z`, with another offset, or without one in UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the time."""
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(str(value).strip())
        except ValueError:
            self.fail(f"{value!r} is not a time, as 2026-12-24T18:00Z.", param, ctx)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _ruled(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say when."""
    for option in reversed(
        (
            click.option("--cron", default="", help="As '0 2 * * *': minute, hour, day, month, weekday."),
            click.option("--zone", default="", help="Whose clock --cron goes by, as Europe/Berlin.  [UTC]"),
            click.option("--every", type=Seconds(), help="A fixed distance, as 15m."),
            click.option("--anchor", type=Moment(), help="One of the times of --every.  [its creation]"),
            click.option("--at", type=Moment(), help="Once, as 2026-12-24T18:00Z."),
            click.option("--start", type=Moment(), help="No times before this."),
            click.option("--end", type=Moment(), help="No times at or after this."),
            click.option("--jitter", type=Seconds(), default=0.0, help="Delay each time by up to this."),
        )
    ):
        command = option(command)
    return command


def _defined(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that define a schedule."""
    for option in reversed(
        (
            click.option("-d", "--data", help="The payload: a JSON object, @file, or -."),
            click.option(
                "--overlap", type=click.Choice(list(_POLICIES)), help="While the last one runs.  [skip]"
            ),
            click.option(
                "--catch-up", type=Seconds(), help="Make up for times missed by at most this.  [1m]"
            ),
            click.option(
                "--label", "labels", type=Pair(), multiple=True, help="Of the schedule; repeatable."
            ),
            click.option("--run-label", "run_labels", type=Pair(), multiple=True, help="Of its runs."),
            click.option("--budget", type=Limits(), help="Of its runs, as max_steps=10,deadline=30s."),
            click.option("--user", default="", help="On whose behalf its runs are."),
            click.option("--session", default="", help="The conversation its runs belong to."),
            click.option("--ordering-key", default="", help="Of its runs."),
            click.option("--priority", type=click.IntRange(0, 9), default=0, help="Of its runs."),
            click.option("--agent-version", default="", help="Run on this version of the code only."),
            click.option("--batch", default="", metavar="SOURCE", help="Start a batch of its items."),
        )
    ):
        command = option(command)
    return _ruled(specified(command))


@click.group()
def command() -> None:
    """Start runs and batches at given times, each once."""


@command.command()
@click.argument("name")
@click.argument("intent")
@_defined
@click.option("--paused", is_flag=True, help="Let it wait until it is resumed.")
@speaks
async def create(target: Target, *, paused: bool, **given: Any) -> None:
    """Create the schedule NAME, which starts runs for INTENT, or batches over it."""
    async with target.client() as client:
        show(target, await client.schedules.create(_schedule(paused=paused, **given)))


@command.command()
@click.argument("name")
@click.argument("intent")
@_defined
@speaks
async def update(target: Target, **given: Any) -> None:
    """Replace the schedule NAME whole; whether it is paused stays."""
    async with target.client() as client:
        show(target, await client.schedules.update(_schedule(**given)))


@command.command()
@click.argument("name")
@speaks
async def get(target: Target, name: str) -> None:
    """Read a schedule, and what came of its latest times."""
    async with target.client() as client:
        show(target, await client.schedules.get(name))


@command.command("list")
@click.option("--intent", default="", help="Only those that start this intent.")
@click.option("--paused/--running", default=None, help="Only those that are paused, or are not.")
@click.option("--label", "labels", type=Pair(), multiple=True, help="Only those with this; repeatable.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most this many.")
@speaks
async def list_schedules(
    target: Target, *, intent: str, paused: bool | None, labels: tuple[tuple[str, str], ...], limit: int
) -> None:
    """List schedules by name."""
    shown: list[Schedule] = []
    async with target.client() as client:
        found = client.schedules.list(
            intent=intent, paused=paused, labels=dict(labels), page_size=min(limit, 200)
        )
        async for schedule in found:
            if target.form == "json":
                json_line(schedule)
            shown.append(schedule)
            if len(shown) == limit:
                break
    if target.form == "table":
        rows = [
            (
                one.name,
                one.invocation.intent,
                batch_of(one) or "a run",
                rule_of(one.timing),
                one.next_time or none_of(one),
                latest_of(one),
            )
            for one in shown
        ]
        table(["NAME", "INTENT", "STARTS", "WHEN", "NEXT", "LATEST"], rows, empty="No schedules.")


@command.command()
@click.argument("name")
@speaks
async def delete(target: Target, name: str) -> None:
    """Delete a schedule; what it has started goes on."""
    async with target.client() as client:
        await client.schedules.delete(name)
    if target.form == "json":
        json_line({"name": name, "deleted": True})
    else:
        click.echo(f"{name} is deleted.")


@command.command()
@click.argument("name")
@click.option("--reason", default="", help="Why.")
@speaks
async def pause(target: Target, name: str, reason: str) -> None:
    """Keep a schedule from firing."""
    async with target.client() as client:
        show(target, await client.schedules.pause(name, reason))


@command.command()
@click.argument("name")
@speaks
async def resume(target: Target, name: str) -> None:
    """Let a schedule fire again; the times of the pause are left out."""
    async with target.client() as client:
        show(target, await client.schedules.resume(name))


@command.command()
@click.argument("name")
@click.option("--key", default="", help="The same key never fires twice.")
@click.option("--overlap", type=click.Choice(list(_POLICIES)), help="For this time.  [the schedule's]")
@speaks
async def trigger(target: Target, name: str, key: str, overlap: str | None) -> None:
    """Fire a schedule now, also if it is paused."""
    async with target.client() as client:
        fire = await client.schedules.trigger(name, idempotency_key=key, overlap=_policy(overlap))
    if target.form == "json":
        json_line(fire)
    else:
        started = [("run", fire.run_id), ("batch", fire.batch_id)]
        fields([("result", fire.result), *started, ("because", fire.message)])


@command.command()
@click.argument("name")
@click.option("--from", "start", type=Moment(), required=True, help="From this time on.")
@click.option("--to", "end", type=Moment(), required=True, help="Before this time.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@speaks
async def backfill(target: Target, name: str, start: datetime, end: datetime, *, dry_run: bool) -> None:
    """Fire for past times that started nothing, one after the other."""
    async with target.client() as client:
        count, first = await client.schedules.backfill(name, start, end, dry_run=dry_run)
    if target.form == "json":
        json_line({"fire_count": count, "scheduled_times": first, "dry_run": dry_run})
    else:
        table(["TIME"], [(time,) for time in first], empty="No times.")
        click.echo(f"{count} {'would fire' if dry_run else 'fire, one after the other'}.")


@command.command()
@click.argument("name", required=False)
@_ruled
@click.option("--after", type=Moment(), help="Times after this one.  [now]")
@click.option("--count", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many.")
@speaks
async def preview(
    target: Target, *, name: str | None, after: datetime | None, count: int, **rule: Any
) -> None:
    """Show the next times of the schedule NAME, or of a rule given by options."""
    timing = None if name else _timing(**rule)
    if name and any(rule[one] for one in ("cron", "every", "at")):
        raise click.UsageError("Give a NAME or a rule, not both.")
    async with target.client() as client:
        times = await client.schedules.preview(name or timing or "", after=after, count=count)
    if target.form == "json":
        json_line({"scheduled_times": times})
        return
    zone = _zone(timing.zone if timing else "")
    there = [(time, time.astimezone(zone).strftime("%a %Y-%m-%d %H:%M:%S %Z")) for time in times]
    columns = ["TIME (UTC)", "THERE"] if timing and timing.zone else ["TIME (UTC)"]
    table(columns, [row[: len(columns)] for row in there], empty="No times.")


def _schedule(
    *,
    name: str,
    intent: str,
    data: str | None,
    overlap: str | None,
    catch_up: float | None,
    labels: tuple[tuple[str, str], ...],
    run_labels: tuple[tuple[str, str], ...],
    batch: str,
    paused: bool = False,
    **rest: Any,
) -> Schedule:
    envelope = {key: rest.pop(key) for key in _ENVELOPE}
    spec = {key: rest.pop(key) for key in NAMES}
    invocation = invocation_of(intent, data, labels=run_labels, **envelope)
    return Schedule(
        name=name,
        timing=_timing(**rest),
        run=None if batch else invocation,
        batch=_batch(invocation, spec, batch),
        overlap=_policy(overlap),
        catch_up=catch_up,
        labels=dict(labels),
        paused=paused,
    )


_ENVELOPE: Final = ("budget", "user", "session", "ordering_key", "priority", "agent_version")


def _batch(invocation: Invocation, given: dict[str, Any], source: str) -> BatchSpec | None:
    ctx = click.get_current_context()
    said = [name for name in NAMES if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if said and not source:
        option = next(each for each in ctx.command.params if each.name == said[0])
        raise click.UsageError(f"{option.opts[0]} has a meaning beside --batch only.")
    return spec_of(invocation, given, source=source) if source else None


def _timing(**rule: Any) -> Timing:
    if sum((bool(rule["cron"]), rule["every"] is not None, rule["at"] is not None)) != 1:
        raise click.UsageError("Say when by one of --cron, --every and --at.")
    if rule["zone"] and not rule["cron"]:
        raise click.UsageError("--zone has a meaning beside --cron only.")
    if rule["anchor"] is not None and rule["every"] is None:
        raise click.UsageError("--anchor has a meaning beside --every only.")
    return Timing(**rule)


def _policy(overlap: str | None) -> OverlapPolicy:
    return OverlapPolicy[_POLICIES[overlap]] if overlap else OverlapPolicy.UNSPECIFIED


def _zone(name: str) -> Any:
    try:
        return ZoneInfo(name) if name else UTC
    except (ZoneInfoNotFoundError, ValueError):
        return UTC
