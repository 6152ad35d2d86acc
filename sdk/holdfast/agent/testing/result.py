"""What became of a run in the lab, for a test to look at."""

import json
from dataclasses import dataclass
from typing import Any

from holdfast.agent.budget import Dimension, Usage
from holdfast.agent.codec import Shape
from holdfast.agent.error import Failure
from holdfast.agent.testing.ledger import Ledger
from holdfast.agent.wire import value
from holdfast.agent.wire.draft import Event, Record, kind_name
from holdfast.agent.wire.invocation import Recorded
from holdfast.v1.run_pb2 import RunStatus


@dataclass(frozen=True, slots=True)
class Sent:
    """An effect: what is delivered, once, when the run is real."""

    destination: str
    payload: Any
    key: str
    ordering_key: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A recorded step: `output` is what it returned, None if it failed; `failure` is the reason why."""

    key: str
    kind: str
    output: Any
    failure: str
    interrupted: bool
    attempts: int


@dataclass(frozen=True, slots=True)
class Result:
    """A run that has ended."""

    status: str
    """SUCCEEDED, PARTIAL, FAILED, CANCELLED, COMPENSATED, DRIFTED or DEAD_LETTERED."""
    value: Any
    """What the agent returned, as JSON."""
    failure: Failure | None
    exhausted: Dimension | None
    """The limit that ended it, if PARTIAL."""
    said: list[str]
    """What the agent said with `run.say`, in order."""
    effects: list[Sent]
    steps: list[Taken]
    usage: Usage
    session: Any
    elapsed: float
    """Seconds of the lab's time from acceptance to the end."""
    leases: int
    """How often a runner took it: once, and once more after each rest, retry and kill."""
    events: list[Event]
    """The whole transcript, in the words of the contract."""

    @property
    def succeeded(self) -> bool:
        """Whether it SUCCEEDED."""
        return self.status == "SUCCEEDED"

    def step(self, key: str) -> Taken:
        """Return a step by its key. Raises KeyError, naming those there are."""
        for step in self.steps:
            if step.key == key:
                return step
        raise KeyError(f"There is no step {key!r} among {', '.join(step.key for step in self.steps)}.")


def result_of(ledger: Ledger) -> Result:
    """Read a run's end out of its ledger."""
    outcome = ledger.outcome
    assert outcome is not None  # it has ended
    failure = outcome.failure
    return Result(
        status=RunStatus.Name(outcome.status).removeprefix("RUN_STATUS_"),
        value=value.read(outcome.result) if outcome.HasField("result") else None,
        failure=Failure(failure.reason, failure.message, failure.step, failure.attempts)
        if outcome.HasField("failure")
        else None,
        exhausted=Dimension(outcome.exhausted) if outcome.exhausted else None,
        said=[event.said.text for event in ledger.events if event.HasField("said")],
        effects=[
            Sent(each.destination, json.loads(each.body), each.idempotency_key, each.ordering_key)
            for each in ledger.effects
        ],
        steps=[_taken(record) for record in ledger.records],
        usage=ledger.spent,
        session=None if ledger.session is None else Shape(Any).read(ledger.session or b"{}"),
        elapsed=ledger.elapsed,
        leases=ledger.epoch,
        events=ledger.events,
    )


def _taken(record: Record) -> Taken:
    recorded = Recorded(record)
    return Taken(
        key=record.key,
        kind=kind_name(record.kind).removeprefix("STEP_KIND_"),
        output=json.loads(record.output) if record.output else None,
        failure="" if recorded.failure is None else recorded.failure.reason,
        interrupted=recorded.interruption is not None,
        attempts=record.attempts,
    )
