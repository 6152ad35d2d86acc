"""A schedule as a form: what is typed becomes one, and what there is can be typed over."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from holdfast.client import Invocation, OverlapPolicy, Schedule, Timing
from holdfast.console.entry import Mistyped, duration, json_object, moment, pairs, seconds, stamp, words

Fields = dict[str, str]

OVERLAPS: Final = (
    ("SKIP", "is not started"),
    ("QUEUE", "waits for the end of the one before"),
    ("CANCEL_OLDER", "starts, and the one before is cancelled"),
)
KINDS: Final = (("cron", "by the clock"), ("every", "at a fixed distance"), ("at", "once"))
EMPTY: Final[Mapping[str, str]] = {
    "name": "",
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
}


def typed(form: Mapping[str, str]) -> Fields:
    """Return the fields of a form that was sent, all of them."""
    return {name: str(form.get(name, "")).strip() for name in EMPTY}


def fields_of(schedule: Schedule) -> Fields:
    """Return what the form holds of a schedule."""
    timing, run = schedule.timing, schedule.run
    return {
        **EMPTY,
        "name": schedule.name,
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
    }


def kind_of(timing: Timing) -> str:
    """Return which of the three rules a timing has."""
    return "every" if timing.every is not None else "at" if timing.at is not None else "cron"


def timing_of(given: Mapping[str, str], old: Timing | None = None) -> Timing:
    """Return the rule that is typed; what the form does not show stays as it was. Raises `Mistyped`."""
    timing = Timing(
        start=moment(given["start"], "Not before"),
        end=moment(given["end"], "Until"),
        jitter=seconds(given["jitter"], "Spread") if given["jitter"] else 0.0,
    )
    if given["kind"] == "every":
        anchor = old.anchor if old is not None else None
        return replace(timing, every=seconds(given["every"], "Every"), anchor=anchor)
    if given["kind"] == "at":
        at = moment(given["at"], "At")
        if at is None:
            raise Mistyped("Say at what time it starts.")
        return replace(timing, at=at)
    if not given["cron"]:
        raise Mistyped("Say when, as 0 2 * * *: minute, hour, day of month, month, day of week.")
    return replace(timing, cron=given["cron"], zone="" if given["zone"] == "UTC" else given["zone"])


def schedule_of(given: Mapping[str, str], old: Schedule | None = None, user: str = "") -> Schedule:
    """Return the schedule that is typed, over the one there is. Raises `Mistyped`."""
    if not given["name"] or not given["intent"]:
        raise Mistyped("A schedule has a name, and an intent for which it starts runs.")
    before = old.run if old is not None else Invocation(given["intent"], user=user)
    run = replace(
        before,
        intent=given["intent"],
        payload=json_object(given["payload"], "Payload"),
        labels=pairs(given["run_labels"], "Labels of its runs"),
    )
    overlap = OverlapPolicy[given["overlap"]] if given["overlap"] in dict(OVERLAPS) else OverlapPolicy.SKIP
    return Schedule(
        name=given["name"],
        timing=timing_of(given, old.timing if old is not None else None),
        run=run,
        overlap=overlap,
        catch_up=seconds(given["catch_up"], "Make up for") if given["catch_up"] else None,
        labels=pairs(given["labels"], "Labels"),
        paused=bool(given["paused"]) and old is None,
    )
