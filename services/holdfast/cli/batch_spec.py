"""What a batch is to do, as people say it: of one that is sent, and of those that a schedule starts."""

from collections.abc import Callable
from typing import Any, Final

import click

from holdfast.cli.given import Pair
from holdfast.client import (
    ApplyEffect,
    ApplyTarget,
    BatchSource,
    BatchSpec,
    FollowUp,
    Invocation,
    ReviewPolicy,
)

_OPTIONS: Final = (
    click.option("--param", "params", type=Pair(), multiple=True, help="Of the source, as region=emea."),
    click.option(
        "--parallelism", type=click.IntRange(1), default=100, show_default=True, help="Items in flight."
    ),
    click.option("--in-order", is_flag=True, help="One item after the other."),
    click.option("--no-staging", is_flag=True, help="Let items take their effects as they run."),
    click.option(
        "--attempts", type=click.IntRange(1), default=1, show_default=True, help="Runs an item may have."
    ),
    click.option(
        "--max-failures", type=click.IntRange(0), default=0, help="More skipped items pause; 0: no count."
    ),
    click.option(
        "--max-failure-share", type=click.FloatRange(0, 1), default=0.0, help="The same as a share."
    ),
    click.option("--label-field", default="", help="The field of an output that classifies it."),
    click.option("--confidence-field", default="", help="The field that says how sure the agent is."),
    click.option("--apply-to", default="", help="The destination that is given accepted outputs."),
    click.option("--undo-to", default="", help="The destination that undoes one."),
    click.option("--apply-run", default="", help="The intent of a run for each, in place of an effect."),
    click.option("--undo-run", default="", help="The intent of a run that undoes one."),
    click.option(
        "--accept-share", type=click.FloatRange(0, 1), default=0.0, help="Accept the rest, as 0.98."
    ),
    click.option("--of-judged", type=click.IntRange(0, 1000), default=0, help="Once so many were judged."),
    click.option("--reviewer", default="", help="An intent that judges a sample in place of people."),
    click.option("--apply-when-met", is_flag=True, help="Apply at once when the share is met."),
)


def specified(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what a batch is to do."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


NAMES: Final = frozenset(option.name for option in vars(specified(lambda: None))["__click_params__"])
"""The names under which the options of `specified` are given."""


def spec_of(invocation: Invocation, given: dict[str, Any], *, source: str, **more: Any) -> BatchSpec:
    """Return the spec of what was typed; with a `source`, its items come from there."""
    if given["params"] and not source:
        raise click.UsageError("--param has a meaning beside a source only.")
    return BatchSpec(
        invocation,
        skip_staging=given["no_staging"],
        max_parallelism=given["parallelism"],
        in_order=given["in_order"],
        max_attempts=given["attempts"],
        tolerated_items=given["max_failures"],
        tolerated_share=given["max_failure_share"],
        label_field=given["label_field"],
        confidence_field=given["confidence_field"],
        review=_policy(given),
        apply=_target(given),
        source=BatchSource(source, dict(given["params"])) if source else None,
        **more,
    )


def _target(given: dict[str, Any]) -> ApplyTarget | None:
    if given["apply_to"] and given["apply_run"]:
        raise click.UsageError("Say one of --apply-to and --apply-run.")
    if given["undo_run"] and not given["apply_run"]:
        raise click.UsageError("--undo-run has a meaning beside --apply-run only.")
    if given["apply_to"]:
        return ApplyEffect(given["apply_to"], given["undo_to"])
    if not given["apply_run"]:
        return None
    return FollowUp(
        Invocation(given["apply_run"]), Invocation(given["undo_run"]) if given["undo_run"] else None
    )


def _policy(given: dict[str, Any]) -> ReviewPolicy | None:
    policy = ReviewPolicy(
        given["accept_share"], given["of_judged"], given["reviewer"], apply_when_met=given["apply_when_met"]
    )
    return None if policy == ReviewPolicy() else policy
