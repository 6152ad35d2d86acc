"""A schedule as a form: what is typed becomes one, and what there is can be typed over."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from holdfast.client import (
    BatchSpec,
    HoldfastError,
    Invocation,
    OverlapPolicy,
    Schedule,
    Timing,
    errors,
)
from holdfast.console.batch_form import BATCH_FIELDS, batch_mistakes, fields_of_batch, read_batch
from holdfast.console.batch_form import PLACES as BATCH_PLACES
from holdfast.console.entry import (
    Mistyped,
    Reading,
    duration,
    json_object,
    moment,
    pairs,
    seconds,
    stamp,
    words,
)

Fields = dict[str, str]

OVERLAPS: Final = (
    ("SKIP", "is not started"),
    ("QUEUE", "waits for the end of the one before"),
    ("CANCEL_OLDER", "starts, and the one before is cancelled"),
)
KINDS: Final = (("cron", "by the clock"), ("every", "at a fixed distance"), ("at", "once"))
STARTS: Final = (("run", "a run"), ("batch", "a batch, of the items of a source"))
EMPTY: Final[Mapping[str, str]] = {
    "name": "",
    "starts": "run",
    "intent": "",
    "payload": "{}",
    "kind": "cron",
    "cron": "0 2 * * *",
    "zone": "UTC",
    "every": "15m",
    "at": "",
    "start": "",
    "end": "",
    "jitter": "",
    "overlap": "SKIP",
    "catch_up": "",
    "labels": "",
    "run_labels": "",
    "paused": "",
    **BATCH_FIELDS,
}
_PLACES: Final[Mapping[str, str]] = {
    "schedule.name": "name",
    "schedule.labels": "labels",
    "schedule.catch_up_window": "catch_up",
    "timing.cron": "cron",
    "timing.cron.time_zone": "zone",
    "timing.interval": "every",
    "timing.one_shot_time": "at",
    "timing.start_time": "start",
    "timing.end_time": "end",
    "timing.jitter": "jitter",
    "run": "payload",
    "run.intent": "intent",
    "run.payload": "payload",
    "run.labels": "run_labels",
    "invocation": "payload",
    "invocation.intent": "intent",
    "invocation.payload": "payload",
    "invocation.labels": "run_labels",
    "batch.labels": "batch_labels",
    "batch.display_name": "display_name",
    **{f"batch.{path}": field for path, field in BATCH_PLACES.items()},
}


def mistakes(error: Mistyped | HoldfastError, given: Mapping[str, str]) -> dict[str, str]:
    """Return what is wrong at which field of the form."""
    if isinstance(error, errors.ScheduleExists):
        return {"name": error.message}
    return batch_mistakes(error, given, _PLACES)


def typed(form: Mapping[str, str]) -> Fields:
    """Return the fields of a form that was sent, all of them."""
    return {name: str(form.get(name, "")).strip() for name in EMPTY}


def fields_of(schedule: Schedule) -> Fields:
    """Return what the form holds of a schedule."""
    timing, run = schedule.timing, schedule.invocation
    return {
        **EMPTY,
        "name": schedule.name,
        "starts": "run" if schedule.batch is None else "batch",
        "intent": run.intent,
        "payload": json.dumps(run.payload or {}, indent=2, ensure_ascii=False),
        "kind": kind_of(timing),
        "cron": timing.cron or EMPTY["cron"],
        "zone": timing.zone or "UTC",
        "every": duration(timing.every) or EMPTY["every"],
        "at": stamp(timing.at),
        "start": stamp(timing.start),
        "end": stamp(timing.end),
        "jitter": duration(timing.jitter) if timing.jitter else "",
        "overlap": schedule.overlap.name if schedule.overlap else "SKIP",
        "catch_up": duration(schedule.catch_up),
        "labels": words(schedule.labels),
        "run_labels": words(run.labels),
        **(fields_of_batch(schedule.batch) if schedule.batch is not None else {}),
    }


def kind_of(timing: Timing) -> str:
    """Return which of the three rules a timing has."""
    return "every" if timing.every is not None else "at" if timing.at is not None else "cron"


def timing_of(given: Mapping[str, str]) -> Timing:
    """Return the rule that is typed. Raises `Mistyped`."""
    reading = Reading(given)
    timing = _timing(reading, None)
    reading.settle()
    return timing


def _timing(reading: Reading, old: Timing | None) -> Timing:
    """Return the rule that is typed; what the form does not show stays as it was."""
    given = reading.given
    timing = Timing(
        start=reading.take("start", "Not before", moment, None),
        end=reading.take("end", "Until", moment, None),
        jitter=reading.take("jitter", "Spread", seconds, 0.0),
    )
    if given["kind"] == "every":
        if not given["every"]:
            reading.miss("every", "Say at what distance it fires, as 30s, 15m, 2h or 1d.")
        every = reading.take("every", "Every", seconds, 0.0)
        return replace(timing, every=every, anchor=old.anchor if old is not None else None)
    if given["kind"] == "at":
        if not given["at"]:
            reading.miss("at", "Say at what time it starts.")
        return replace(timing, at=reading.take("at", "At", moment, None))
    if not given["cron"]:
        reading.miss("cron", "Say when, as 0 2 * * *: minute, hour, day of month, month, day of week.")
    return replace(timing, cron=given["cron"], zone="" if given["zone"] == "UTC" else given["zone"])


def schedule_of(given: Mapping[str, str], old: Schedule | None = None, user: str = "") -> Schedule:
    """Return the schedule that is typed, over the one there is. Raises `Mistyped` with all that is wrong."""
    reading = Reading(given)
    for name, text in (("name", "A schedule has a name."), ("intent", "Say for which intent it starts.")):
        if not given[name]:
            reading.miss(name, text)
    before = old.invocation if old is not None else Invocation(given["intent"], user=user)
    envelope = replace(
        before,
        intent=given["intent"],
        payload=reading.take("payload", "Payload", json_object, {}),
        labels=reading.take("run_labels", "Labels of its runs", pairs, {}),
    )
    batch = _batch(reading, envelope, old) if given["starts"] == "batch" else None
    schedule = Schedule(
        name=given["name"],
        timing=_timing(reading, old.timing if old is not None else None),
        run=envelope if batch is None else None,
        batch=batch,
        overlap=OverlapPolicy[given["overlap"]] if given["overlap"] in dict(OVERLAPS) else OverlapPolicy.SKIP,
        catch_up=reading.take("catch_up", "Make up for", seconds, None),
        labels=reading.take("labels", "Labels", pairs, {}),
        paused=bool(given["paused"]) and old is None,
    )
    reading.settle()
    return schedule


def _batch(reading: Reading, envelope: Invocation, old: Schedule | None) -> BatchSpec:
    if not reading.given["source"]:
        reading.miss("source", "Say from which source its items come: nobody is there to send them.")
    before = old.batch if old is not None else None
    return read_batch(reading, replace(before or BatchSpec(envelope), invocation=envelope))
