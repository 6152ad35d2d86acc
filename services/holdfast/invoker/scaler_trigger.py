"""What a trigger of KEDA asks for: its metadata, checked whole, every malformed entry named."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast

from holdfast.kit.errors import InvalidField, Violation
from holdfast.ledger.demand import Backlog, Question

Metric = Literal["demand", "backlog", "lag"]

TARGETS: Final[Mapping[str, float]] = {"demand": 256.0, "backlog": 100.0, "lag": 10.0}
"""What one replica is to have where a trigger does not say: runs, runs, seconds."""
MOST_INTENTS: Final = 100
_LONGEST: Final = 16 * 1024
_MOST_TARGET: Final = 1_000_000.0
_INTENT: Final = re.compile(r"[A-Za-z0-9_./-]{1,255}\Z")
_PRIORITY: Final = re.compile(r"[0-9]\Z")
_FIELD: Final = "scaler_metadata."


@dataclass(frozen=True, slots=True)
class Trigger:
    """What is scaled, by which metric, and how much of it one replica is to have."""

    question: Question
    metric: Metric
    target: float

    @property
    def name(self) -> str:
        """The metric as KEDA and the autoscaler call it."""
        return f"holdfast-{self.metric}"

    def value(self, backlog: Backlog) -> float:
        """Return the metric's value."""
        return {
            "demand": float(backlog.total),
            "backlog": float(backlog.waiting),
            "lag": backlog.lag_s,
        }[self.metric]


def read_trigger(metadata: Mapping[str, str]) -> Trigger:
    """Read a trigger's metadata. Raises `InvalidField` naming every entry that is not as it must be."""
    wrong: list[Violation] = []

    def refuse(name: str, problem: str) -> None:
        wrong.append(Violation(_FIELD + name, problem))

    listed = metadata.get("intents", "")[:_LONGEST]
    intents = tuple(dict.fromkeys(part.strip() for part in listed.split(",") if part.strip()))
    if not 1 <= len(intents) <= MOST_INTENTS or not all(_INTENT.match(intent) for intent in intents):
        refuse("intents", f"must list 1 to {MOST_INTENTS} intents, with commas between")
    metric = metadata.get("metric", "demand")
    if metric not in TARGETS:
        refuse("metric", f"must be one of {', '.join(TARGETS)}")
        metric = "demand"
    target = _number(metadata.get("target", ""), TARGETS[metric])
    if target is None:
        refuse("target", f"must be a number above 0, up to {_MOST_TARGET:,.0f}")
    priority = metadata.get("priority", "0")
    if not _PRIORITY.match(priority):
        refuse("priority", "must be from 0 to 9")
    if wrong or target is None:
        raise InvalidField("The trigger's metadata is malformed.", violations=wrong)
    return Trigger(Question(intents, int(priority)), cast("Metric", metric), target)


def _number(text: str, default: float) -> float | None:
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number <= _MOST_TARGET else None
