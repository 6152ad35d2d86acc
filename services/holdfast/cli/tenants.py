"""`holdfast tenants`: what tenants may do, and how they fare."""

from collections.abc import Mapping
from typing import Any

import click

from holdfast.cli.given import Cap, Rate, Retention, Seconds
from holdfast.cli.output import fields, json_line, plain, table
from holdfast.cli.target import Target, speaks
from holdfast.client import Queue, Statistics, Tenant


@click.group()
def command() -> None:
    """Show tenants with their queues, and set their limits."""


@command.command("list")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most this many.")
@speaks
async def list_tenants(target: Target, limit: int) -> None:
    """List tenants by name."""
    shown: list[tuple[Tenant, Statistics]] = []
    async with target.client() as client:
        async for tenant, statistics in client.tenants.list(page_size=min(limit, 200)):
            if target.form == "json":
                json_line(_plain(tenant, statistics))
            shown.append((tenant, statistics))
            if len(shown) == limit:
                break
    if target.form == "table":
        columns = ["TENANT", "WEIGHT", "IN FLIGHT", "CAP", "QUEUED", "OLDEST", "RATE", "REFUSED"]
        rows = [
            (
                tenant.tenant,
                tenant.weight,
                statistics.queue.in_flight,
                tenant.max_in_flight,
                statistics.queue.queued,
                _age(statistics.queue),
                f"{tenant.rate:g}/s",
                statistics.queue.refused_queue_full + statistics.queue.refused_rate,
            )
            for tenant, statistics in shown
        ]
        table(columns, rows, empty="No tenants.")


@command.command()
@click.argument("name", metavar="[TENANT]", default="")
@speaks
async def get(target: Target, name: str) -> None:
    """Read a tenant with its queue.

    TENANT is the one of --tenant if left out.
    """
    async with target.client() as client:
        found, statistics = await client.tenants.get(name), await client.tenants.statistics(name)
    if target.form == "json":
        json_line(_plain(found, statistics))
        return
    _show(found)
    queue = statistics.queue
    fields(
        [
            ("queued", queue.queued),
            ("oldest", _age(queue)),
            ("in flight", queue.in_flight),
            ("parked", queue.parked),
            ("dead letters", queue.dead_lettered),
            ("refused, full", queue.refused_queue_full),
            ("refused, rate", queue.refused_rate),
            ("throttled", "yes" if queue.throttled else "no"),
        ]
    )
    if statistics.intents:
        rows = [(intent, part.queued, _age(part)) for intent, part in statistics.intents.items()]
        table(["INTENT", "QUEUED", "OLDEST"], rows, empty="")


@command.command("set")
@click.argument("name", metavar="TENANT")
@click.option("--weight", type=click.IntRange(0), help="Its share when tenants compete.")
@click.option("--max-in-flight", type=click.IntRange(0), help="Runs held by runners at one time.")
@click.option("--max-queued", type=click.IntRange(0), help="Runs that may wait.")
@click.option("--rate", type=Rate(), help="Runs it may start, as 20/s or 90/m.")
@click.option("--burst", type=click.IntRange(0), help="How many may come at once after a pause.")
@click.option("--default-deadline", type=Seconds(), help="Of a run that asks for none, as 10m.")
@click.option("--default-max-steps", "max_steps", type=click.IntRange(0), help="The same of steps.")
@click.option("--default-max-tools", "max_tools", type=click.IntRange(0), help="The same of tool calls.")
@click.option("--default-max-tokens", "max_tokens", type=click.IntRange(0), help="The same of tokens.")
@click.option("--default-max-context", "max_context", type=click.IntRange(0), help="The same of context.")
@click.option("--alert-destination", help="Is sent an effect for each run and effect set aside; '': none.")
@click.option(
    "--intent-cap",
    "caps",
    type=Cap(),
    multiple=True,
    metavar="INTENT=N",
    help="Runs of an intent held at one time; repeatable, and replaces all caps of intents.",
)
@click.option(
    "--retention",
    "kept",
    type=Retention(),
    multiple=True,
    metavar="[SHAPE=]DURATION",
    help="How long after its end a run is kept, as batch=7d, or 90d of all shapes; 0: for ever. Repeatable.",
)
@click.option("--no-intent-caps", is_flag=True, help="Let only --max-in-flight hold.")
@click.option(
    "--max-in-flight-per-user",
    type=click.IntRange(0),
    help="Runs of each user held at one time whom no --user-cap names; 0: only --max-in-flight holds.",
)
@click.option(
    "--user-cap",
    "user_caps",
    type=Cap("user"),
    multiple=True,
    metavar="USER=N",
    help="Runs of a user held at one time; repeatable, and replaces all caps of named users.",
)
@click.option("--no-user-caps", is_flag=True, help="Take the caps of named users away.")
@speaks
async def set_limits(
    target: Target,
    name: str,
    *,
    default_deadline: float | None,
    caps: tuple[tuple[str, int], ...],
    kept: tuple[dict[str, float], ...],
    user_caps: tuple[tuple[str, int], ...],
    no_intent_caps: bool,
    no_user_caps: bool,
    **limits: Any,
) -> None:
    """Change limits of a tenant; those left out stay, 0 is the platform's default.

    It holds from the next call on, and nothing in flight is taken back. A TENANT that is new is made.
    """
    if caps and no_intent_caps:
        raise click.UsageError("--intent-cap and --no-intent-caps say two things.")
    if caps or no_intent_caps:
        limits["max_in_flight_by_intent"] = dict(caps)
    if kept:
        limits["retention"] = {shape: seconds for each in kept for shape, seconds in each.items()}
    if user_caps and no_user_caps:
        raise click.UsageError("--user-cap and --no-user-caps say two things.")
    if user_caps or no_user_caps:
        limits["max_in_flight_by_user"] = dict(user_caps)
    if default_deadline is not None:
        limits["deadline_ms"] = round(default_deadline * 1000)
    if all(value is None for value in limits.values()):
        raise click.UsageError("Say which limit shall change, as --weight 4.")
    async with target.client() as client:
        changed = await client.tenants.set(name, **limits)
    if target.form == "json":
        json_line(changed)
    else:
        _show(changed)


def _show(tenant: Tenant) -> None:
    budget = tenant.default_budget
    fields(
        [
            ("tenant", tenant.tenant),
            ("weight", tenant.weight),
            ("max in flight", tenant.max_in_flight),
            ("of intents", _caps(tenant.max_in_flight_by_intent)),
            ("of each user", tenant.max_in_flight_per_user or ""),
            ("of users", _caps(tenant.max_in_flight_by_user)),
            ("max queued", tenant.max_queued),
            ("rate", f"{tenant.rate:g}/s, {tenant.burst:,} at once"),
            ("default deadline", f"{budget.deadline_ms / 1000:g} s"),
            ("default steps", budget.max_steps),
            ("default tools", budget.max_tools),
            ("default tokens", budget.max_tokens),
            ("default context", budget.max_context),
            ("alerts to", tenant.alert_destination),
            ("runs kept", ", ".join(f"{shape} {_days(s)}" for shape, s in tenant.retention.items())),
            ("made", tenant.create_time),
            ("changed", tenant.update_time),
        ]
    )


def _caps(caps: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={most}" for name, most in sorted(caps.items()))


def _plain(tenant: Tenant, statistics: Statistics) -> dict[str, Any]:
    parts = {"intents": plain(statistics.intents)} if statistics.intents else {}
    return {**plain(tenant), "queue": plain(statistics.queue), **parts}


def _days(seconds: float) -> str:
    return f"{seconds / 86_400:g} d" if seconds % 86_400 == 0 else f"{seconds:g} s"


def _age(queue: Queue) -> str:
    return "" if queue.oldest_age is None else f"{queue.oldest_age:.1f} s"
