"""Which effects a command means: one by its id, or all that match, which are only shown without `--yes`."""

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Final

import click

from holdfast.cli import exit_code
from holdfast.cli.acting import SHOWN
from holdfast.cli.output import json_line, note
from holdfast.cli.target import Target
from holdfast.client import ActedOnEffects, EffectAction, EffectStatus

Verb = Callable[..., Coroutine[Any, Any, int | None]]

_STATUSES: Final = [status.name for status in EffectStatus if status]


def one_or_all(action: EffectAction) -> Callable[[Verb], Verb]:
    """Let a command of `command(target, effect_id, …)` mean all that match, where it is given no id."""

    def made(command: Verb) -> Verb:
        @click.argument("effect_id", required=False)
        @click.option(
            "--status",
            "statuses",
            type=click.Choice(_STATUSES, case_sensitive=False),
            multiple=True,
            help="In this status; repeatable. Dead-lettered if none is given.",
        )
        @click.option("--destination", default="", help="Bound for this destination.")
        @click.option("--run", "run_id", default="", help="Caused by this run.")
        @click.option("--yes", is_flag=True, help="Do it with all that match; else they are only shown.")
        @click.option(
            "--limit", type=click.IntRange(1), default=1000, show_default=True, help="At most so many."
        )
        @click.option("--max-per-second", type=click.FloatRange(0), default=0.0, help="No faster than this.")
        @functools.wraps(command)
        async def run(
            target: Target,
            *,
            effect_id: str | None,
            statuses: tuple[str, ...],
            destination: str,
            run_id: str,
            yes: bool,
            limit: int,
            max_per_second: float,
            **given: Any,
        ) -> int | None:
            said = bool(statuses or destination or run_id)
            if effect_id is not None:
                if said or yes:
                    raise click.UsageError("Either EFFECT_ID, or options that say which effects.")
                return await command(target, effect_id=effect_id, **given)
            if not said:
                raise click.UsageError(
                    "Say which effects: EFFECT_ID, or options as --status and --destination."
                )
            async with target.client() as client:
                acted = None
                async for acted in client.outbox.act_on_effects(
                    action,
                    apply=yes,
                    statuses=[EffectStatus[status.upper()] for status in statuses],
                    destination=destination,
                    run_id=run_id,
                    limit=limit,
                    max_per_second=max_per_second,
                    **given,
                ):
                    _tell(target, action, acted, yes=yes)
            return exit_code.OK if acted is None or not acted.skipped else exit_code.REFUSED

        return run

    return made


def _tell(target: Target, action: EffectAction, acted: ActedOnEffects, *, yes: bool) -> None:
    if target.form == "json":
        json_line(acted)
        return
    for skipped in acted.skipped_effects:
        note(f"{skipped.effect_id}: {skipped.reason}: {skipped.message}")
    if not yes:
        before = acted.matched - len(acted.effect_ids)
        for effect_id in acted.effect_ids[: max(0, SHOWN - before)]:
            click.echo(effect_id)
    if acted.finished:
        done = f"{action}: {acted.done} done, {acted.skipped} passed over"
        matching = "1 effect matches" if acted.matched == 1 else f"{acted.matched} effects match"
        click.echo(done if yes else f"{matching}; --yes does it: {action}")
    elif yes:
        note(f"{acted.done} done, {acted.skipped} passed over …")
