"""`holdfast outbox`: effects, where they go, and what to do with those that did not arrive."""

from typing import Any

import click

from holdfast.cli.effect_acting import one_or_all
from holdfast.cli.given import Pair, Seconds
from holdfast.cli.outbox_install import command as install
from holdfast.cli.output import cell, fields, json_line, table
from holdfast.cli.target import Target, speaks
from holdfast.client import DeliveryMode, Destination, Effect, EffectStatus

_STATUSES = [status.name for status in EffectStatus if status]
_MODES = [mode.name for mode in DeliveryMode if mode]


@click.group()
def command() -> None:
    """Look after effects and their destinations."""


command.add_command(install, "install")


@command.command("list")
@click.option("--status", "statuses", type=click.Choice(_STATUSES, case_sensitive=False), multiple=True)
@click.option("--destination", default="", help="Bound for this destination.")
@click.option("--run", "run_id", default="", help="Caused by this run.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most this many.")
@speaks
async def list_effects(
    target: Target, statuses: tuple[str, ...], destination: str, run_id: str, limit: int
) -> None:
    """List effects, newest first."""
    shown: list[Effect] = []
    async with target.client() as client:
        effects = client.outbox.list_effects(
            statuses=[EffectStatus[status] for status in statuses],
            destination=destination,
            run_id=run_id,
            page_size=min(limit, 200),
        )
        async for effect in effects:
            if target.form == "json":
                json_line(effect)
            shown.append(effect)
            if len(shown) == limit:
                break
    if target.form == "table":
        rows = [
            (one.effect_id, one.destination, one.status, one.attempts, one.create_time, _why(one))
            for one in shown
        ]
        columns = ["EFFECT", "DESTINATION", "STATUS", "ATTEMPTS", "COMMITTED", "LAST FAILURE"]
        table(columns, rows, empty="No effects.")


@command.command()
@click.argument("effect_id")
@speaks
async def get(target: Target, effect_id: str) -> None:
    """Read an effect with its body and history."""
    async with target.client() as client:
        _show(target, await client.outbox.get_effect(effect_id))


@command.command()
@speaks
@one_or_all("retry")
async def retry(target: Target, effect_id: str) -> None:
    """Send dead-lettered effects again.

    Either one, EFFECT_ID, or all that match the options: these are only shown, unless --yes is given.
    """
    async with target.client() as client:
        _show(target, await client.outbox.retry_effect(effect_id))


@command.command()
@click.option("--reason", default="", help="Why, for the record.")
@speaks
@one_or_all("discard")
async def discard(target: Target, effect_id: str, reason: str) -> None:
    """Give up effects; those behind them in their order go on.

    Either one, EFFECT_ID, or all that match the options: these are only shown, unless --yes is given.
    """
    async with target.client() as client:
        _show(target, await client.outbox.discard_effect(effect_id, reason))


@command.command()
@speaks
async def destinations(target: Target) -> None:
    """List destinations with their breakers."""
    async with target.client() as client:
        found = [one async for one in client.outbox.list_destinations()]
    if target.form == "json":
        for one in found:
            json_line(one)
        return
    rows = [
        (
            one.name,
            one.url,
            one.delivery_mode,
            one.breaker.state if one.breaker else "",
            one.breaker.failures if one.breaker else "",
            (one.breaker.probe_time or "") if one.breaker else "",
            one.max_concurrent,
        )
        for one in found
    ]
    columns = ["NAME", "URL", "DELIVERY", "BREAKER", "FAILURES", "PROBE", "AT ONCE"]
    table(columns, rows, empty="No destinations.")


@command.command("put-destination")
@click.argument("name")
@click.argument("url")
@click.option("--secret-name", default="", help="The signing secret's name in the dispatcher's environment.")
@click.option(
    "--header", "headers", type=Pair(), multiple=True, help="A fixed header, name=value; repeatable."
)
@click.option("--max-concurrent", type=click.IntRange(0), default=0, help="Calls at once.")
@click.option("--max-per-second", type=click.FloatRange(0), default=0.0, help="Calls a second.")
@click.option(
    "--max-retries-per-second", type=click.FloatRange(0), default=0.0, help="Effects sent again a second."
)
@click.option("--timeout", type=Seconds(), default=0.0, help="How long a call may take.")
@click.option("--max-attempts", type=click.IntRange(0), default=0, help="How often an effect is tried.")
@click.option("--initial-backoff", type=Seconds(), default=0.0, help="The cap of the first wait.")
@click.option("--max-backoff", type=Seconds(), default=0.0, help="No wait is longer.")
@click.option("--delivery-mode", type=click.Choice(_MODES, case_sensitive=False), default="AT_LEAST_ONCE")
@click.option("--status-url", default="", help="Where CONFIRM asks; {key} stands for the idempotency key.")
@click.option("--breaker-failures", type=click.IntRange(0), default=0, help="Failures in a row that open it.")
@click.option("--breaker-reset-after", type=Seconds(), default=0.0, help="How long it stays open.")
@speaks
async def put_destination(
    target: Target, headers: tuple[tuple[str, str], ...], delivery_mode: str, **given: Any
) -> None:
    """Make or change a destination.

    NAME is how agents call it, URL where its effects are sent; what is left out takes its default. A URL
    grpcs://host:port/package.Service/Method is a unary gRPC call, natss://host:port/subject publishes to a
    JetStream stream; grpc://… and nats://… are those without TLS.
    """
    wanted = Destination(headers=dict(headers), delivery_mode=DeliveryMode[delivery_mode], **given)
    async with target.client() as client:
        _show_destination(target, await client.outbox.put_destination(wanted))


@command.command("reset-breaker")
@click.argument("name")
@speaks
async def reset_breaker(target: Target, name: str) -> None:
    """Close the breaker of a destination.

    NAME is called again at once.
    """
    async with target.client() as client:
        _show_destination(target, await client.outbox.reset_breaker(name))


def _show(target: Target, effect: Effect) -> None:
    if target.form == "json":
        json_line(effect)
        return
    fields(
        [
            ("effect", effect.effect_id),
            ("destination", effect.destination),
            ("status", effect.status),
            ("run", effect.run_id),
            ("step", effect.step),
            ("key", effect.idempotency_key),
            ("attempts", effect.attempts),
            ("committed", effect.create_time),
            ("delivered", effect.deliver_time),
            ("next attempt", effect.next_attempt_time),
            ("last failure", _why(effect)),
            ("body", effect.body),
        ]
    )
    rows = [
        (
            one.time,
            one.http_status or "",
            f"{one.duration * 1000:.0f} ms",
            one.failure.message if one.failure else "ok",
        )
        for one in effect.history
    ]
    if rows:
        table(["ATTEMPT", "HTTP", "TOOK", "OUTCOME"], rows, empty="")


def _show_destination(target: Target, destination: Destination) -> None:
    if target.form == "json":
        json_line(destination)
        return
    breaker = destination.breaker
    fields(
        [
            ("name", destination.name),
            ("url", destination.url),
            ("delivery", destination.delivery_mode),
            ("secret", destination.secret_name),
            ("headers", dict(destination.headers)),
            ("at once", destination.max_concurrent),
            ("asked at", destination.status_url or None),
            ("per second", destination.max_per_second or None),
            ("retries per second", destination.max_retries_per_second or None),
            ("timeout", f"{destination.timeout:g} s"),
            ("attempts", destination.max_attempts),
            ("backoff", f"{destination.initial_backoff:g} s to {destination.max_backoff:g} s"),
            ("breaker", cell(breaker.state) if breaker else None),
            ("failures", breaker.failures or None if breaker else None),
            ("open since", breaker.open_time if breaker else None),
            ("probe at", breaker.probe_time if breaker else None),
        ]
    )


def _why(effect: Effect) -> str:
    return effect.last_failure.message if effect.last_failure else ""
