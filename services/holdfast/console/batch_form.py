"""What a batch is to do as fields of a form: of one that is sent, and of those that a schedule starts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from holdfast.client import (
    ApplyEffect,
    ApplyTarget,
    BatchSource,
    BatchSpec,
    FollowUp,
    HoldfastError,
    Invocation,
    ReviewPolicy,
)
from holdfast.client.errors import DestinationNotFound, UnknownIntent
from holdfast.console.entry import Mistyped, Reading, at_fields, pairs, share, whole, words

BATCH_FIELDS: Final[Mapping[str, str]] = {
    "display_name": "",
    "batch_labels": "",
    "source": "",
    "parameters": "",
    "parallelism": "",
    "in_order": "",
    "attempts": "",
    "max_items": "",
    "max_share": "",
    "skip_staging": "",
    "label_field": "",
    "confidence_field": "",
    "accept_share": "",
    "of_judged": "",
    "reviewer": "",
    "apply_when_met": "",
    "destination": "",
    "undo_destination": "",
    "follow_up": "",
    "follow_up_undo": "",
}
"""The fields of an empty form; an empty one takes the platform's default."""

PLACES: Final[Mapping[str, str]] = {
    "source": "source",
    "source.parameters": "parameters",
    "max_parallelism": "parallelism",
    "retry.max_attempts": "attempts",
    "tolerance.max_items": "max_items",
    "tolerance.max_share": "max_share",
    "label_field": "label_field",
    "confidence_field": "confidence_field",
    "review": "accept_share",
    "review.min_judged": "of_judged",
    "review.reviewer_intent": "reviewer",
    "review.apply_when_met": "apply_when_met",
    "apply": "destination",
    "apply.effect.undo_destination": "undo_destination",
    "apply.follow_up": "follow_up",
    "apply.undo": "follow_up_undo",
}
"""Which field of the form a path of the contract's `BatchSpec` is typed into."""
_NAMED: Final = {
    "intent": ("intent", "reviewer", "follow_up", "follow_up_undo"),
    "destination": ("destination", "undo_destination"),
}


def batch_mistakes(
    error: Mistyped | HoldfastError, given: Mapping[str, str], places: Mapping[str, str]
) -> dict[str, str]:
    """Return what is wrong at which field: what was mistyped, malformed, or names something not there.

    `places` says which field a path of the contract is typed into.
    """
    if isinstance(error, Mistyped):
        return error.at
    if not isinstance(error, UnknownIntent | DestinationNotFound):
        return at_fields(error.violations, places)
    kind = "intent" if isinstance(error, UnknownIntent) else "destination"
    fields = _NAMED[kind]
    field = next((each for each in fields if given[each] == error.facts.get(kind)), fields[0])
    missing = f"There is no destination {given[field]!r}: set it up in the outbox first."
    return {field: error.message if kind == "intent" else missing}


def fields_of_batch(spec: BatchSpec) -> dict[str, str]:
    """Return what the form holds of a batch."""
    source, review = spec.source or BatchSource(""), spec.review or ReviewPolicy()
    return {
        "display_name": spec.display_name,
        "batch_labels": words(spec.labels),
        "source": source.source,
        "parameters": words(source.parameters),
        "parallelism": _number(spec.max_parallelism),
        "in_order": _ticked(on=spec.in_order),
        "attempts": _number(spec.max_attempts),
        "max_items": _number(spec.tolerated_items),
        "max_share": _number(spec.tolerated_share),
        "skip_staging": _ticked(on=spec.skip_staging),
        "label_field": spec.label_field,
        "confidence_field": spec.confidence_field,
        "accept_share": _number(review.min_accepted_share),
        "of_judged": _number(review.min_judged),
        "reviewer": review.reviewer_intent,
        "apply_when_met": _ticked(on=review.apply_when_met),
        **_fields_of_target(spec.apply),
    }


def _number(value: float) -> str:
    return repr(value) if value else ""


def _ticked(*, on: bool) -> str:
    return "on" if on else ""


def _fields_of_target(target: ApplyTarget | None) -> dict[str, str]:
    if isinstance(target, ApplyEffect):
        return {"destination": target.destination, "undo_destination": target.undo_destination}
    if target is None:
        return {}
    return {
        "follow_up": target.run.intent,
        "follow_up_undo": target.undo.intent if target.undo is not None else "",
    }


def read_batch(reading: Reading, old: BatchSpec) -> BatchSpec:
    """Return the batch that is typed, over one that says the rest; what cannot be read is noted."""
    given = reading.given
    return replace(
        old,
        display_name=given["display_name"],
        labels=reading.take("batch_labels", "Labels of the batch", pairs, {}),
        source=_source(reading),
        max_parallelism=reading.take("parallelism", "Items in flight", whole, 0),
        in_order=bool(given["in_order"]),
        max_attempts=reading.take("attempts", "Tries of an item", whole, 0),
        tolerated_items=reading.take("max_items", "Pause after so many failed", whole, 0),
        tolerated_share=reading.take("max_share", "Or after a share of", share, 0.0),
        skip_staging=bool(given["skip_staging"]),
        label_field=given["label_field"],
        confidence_field=given["confidence_field"],
        review=_policy(reading, old.review),
        apply=read_target(reading, old.apply),
    )


def _source(reading: Reading) -> BatchSource | None:
    parameters = reading.take("parameters", "Parameters of the source", pairs, {})
    if reading.given["source"]:
        return BatchSource(reading.given["source"], parameters)
    if parameters:
        reading.miss("source", "Say of which source these are the parameters.")
    return None


def _policy(reading: Reading, old: ReviewPolicy | None) -> ReviewPolicy | None:
    policy = ReviewPolicy(
        reading.take("accept_share", "Accept the rest once a share of", share, 0.0),
        reading.take("of_judged", "Of so many judged", whole, 0),
        reading.given["reviewer"],
        apply_when_met=bool(reading.given["apply_when_met"]),
    )
    return None if old is None and policy == ReviewPolicy() else policy


def read_target(reading: Reading, old: ApplyTarget | None = None) -> ApplyTarget | None:
    """Return what becomes of accepted outputs, if it is typed; what the form does not show stays."""
    given = reading.given
    destination, undo, intent = given["destination"], given["undo_destination"], given["follow_up"]
    if intent and (destination or undo):
        reading.miss("follow_up", "Outputs go to a destination or to runs for an intent, not to both.")
    elif undo and not destination:
        reading.miss("destination", "Say which destination is undone by that one.")
    if given["follow_up_undo"] and not intent:
        reading.miss("follow_up", "Say which runs are undone by that one.")
    if destination:
        return ApplyEffect(destination, undo)
    if not intent:
        return None
    before = old if isinstance(old, FollowUp) else FollowUp(Invocation(intent))
    undone_by = replace(before.undo or Invocation(""), intent=given["follow_up_undo"])
    return FollowUp(replace(before.run, intent=intent), undone_by if undone_by.intent else None)


def typed_target(form: Mapping[str, str]) -> ApplyTarget | None:
    """Return the target that a form names; None: what the batch itself says. Raises `Mistyped`."""
    reading = Reading({name: form.get(name, "").strip() for name in BATCH_FIELDS})
    target = read_target(reading)
    reading.settle()
    return target
