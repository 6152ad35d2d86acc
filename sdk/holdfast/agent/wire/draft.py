"""One commit in the making: records, effects and events that become durable together."""

import time
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.agent.budget import Dimension, Usage
from holdfast.agent.error import Failure
from holdfast.agent.wire import value as json_value
from holdfast.v1 import checkpoint_pb2, run_pb2
from holdfast.v1.transcript_pb2 import EventBatch, RunEvent

Commit = checkpoint_pb2.Commit
Event = RunEvent
Record = checkpoint_pb2.StepRecord
Effect = checkpoint_pb2.EffectIntent

FUNCTION: Final = 1
MODEL: Final = 2
TOOL: Final = 3
"""The kinds of steps, numbered as `holdfast.v1.StepKind`."""

QUEUED: Final = 1
SUCCEEDED: Final = 5
PARTIAL: Final = 6
FAILED: Final = 7
CANCELLED: Final = 8
DRIFTED: Final = 11
"""The statuses a runner moves a run to, numbered as `holdfast.v1.RunStatus`."""

_GIGA: Final = 1_000_000_000


class Outcome:
    """How a run ends."""

    __slots__ = ("message",)

    def __init__(
        self,
        status: int,
        *,
        result: Any = None,
        failure: Failure | None = None,
        exhausted: Dimension | None = None,
    ) -> None:
        self.message = run_pb2.Outcome(status=status, exhausted=exhausted or 0)  # type: ignore[arg-type]
        if status in (SUCCEEDED, PARTIAL):
            json_value.write(self.message.result, result)
        if failure is not None:
            _write_failure(self.message.failure, failure)

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return self.message.ByteSize()


class Draft:
    """Grows until it is sent; its events are a message apart, so that who keeps events keeps no more."""

    __slots__ = ("_commit", "_events", "emitted", "recorded", "size")

    def __init__(self) -> None:
        self._commit = Commit()
        self._events = EventBatch()
        self.emitted: dict[str, int] = {}
        self.recorded = False
        self.size = 0

    @property
    def empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not self.recorded and not self._events.events and not self._commit.effects

    def event(self) -> RunEvent:
        """Begin the next event."""
        return self._events.events.add()

    def record(self, record: Record) -> None:
        """Add a step's record."""
        self._commit.steps.append(record)
        self.recorded = True
        self.size += len(record.input) + len(record.output) + 256

    def effect(self, effect: Effect) -> None:
        """Add an effect."""
        self._commit.effects.append(effect)
        self.size += len(effect.body) + 256

    def charge(self, usage: Usage) -> None:
        """Charge what no record is charged with."""
        charged = self._commit.usage
        charged.tools += usage.tools
        charged.tokens += usage.tokens
        charged.context = max(charged.context, usage.context)

    def end(self, outcome: Outcome) -> None:
        """Make the run end with this commit."""
        self._commit.end.CopyFrom(outcome.message)

    def requeue(self, failure: Failure | None, delay: float, *, blameless: bool) -> None:
        """Make the run go back to the queue with this commit."""
        move = self._commit.requeue
        move.blameless = blameless
        write_duration(move.delay, delay)
        if failure is not None:
            _write_failure(move.failure, failure)

    def forget_records(self) -> None:
        """Leave only the events that have been told: all but the run's end."""
        self._commit.Clear()
        events = self._events.events
        if events and events[-1].WhichOneof("event") == "ended":
            del events[-1]
        self.recorded = False

    def absorb(self, later: "Draft") -> None:
        """Take the events of the next draft in."""
        self._events.events.extend(later._events.events)  # noqa: SLF001 -- of the same class
        for scope, count in later.emitted.items():
            self.emitted[scope] = self.emitted.get(scope, 0) + count

    def sealed(self, run_id: str, epoch: int, number: int) -> Commit:
        """Return the commit, numbered; what is added to the draft afterwards is not in it."""
        commit = self._commit
        commit.run_id = run_id
        commit.epoch = epoch
        commit.number = number
        if self._events.events:
            commit.events.CopyFrom(self._events)
        for scope, count in self.emitted.items():
            commit.emitted[scope] = count
        return commit


def make_record(
    key: str,
    kind: int,
    fingerprint: bytes,
    *,
    input: bytes,  # noqa: A002 -- the contract's word
    output: bytes = b"",
    failure: Failure | None = None,
    attempts: int,
    usage: Usage,
    duration: float,
) -> Record:
    """Make the record of a step: what it returned, or why it failed."""
    record = Record(
        key=key,
        kind=kind,  # type: ignore[arg-type]
        fingerprint=fingerprint,
        input=input,
        output=output,
        attempts=attempts,
    )
    _write_usage(record.usage, usage)
    write_duration(record.duration, duration)
    if failure is not None:
        _write_failure(record.failure, failure)
    return record


def make_effect(
    effect_id: str, destination: str, *, key: str, ordering_key: str, body: bytes, not_before: float | None
) -> Effect:
    """Make the intent of an effect; `not_before` in seconds of Unix time."""
    effect = Effect(
        effect_id=effect_id,
        destination=destination,
        idempotency_key=key,
        ordering_key=ordering_key,
        body=body,
    )
    if not_before is not None:
        _write_time(effect.not_before, int(not_before * _GIGA))
    return effect


class Pen:
    """Writes events into drafts, numbers them without gaps, and tells each to `told` when it is complete."""

    __slots__ = ("_attempt", "_epoch", "_run_id", "_told", "sequence")

    def __init__(
        self, run_id: str, epoch: int, attempt: int, last_sequence: int, told: Callable[[RunEvent], None]
    ) -> None:
        self._run_id = run_id
        self._epoch = epoch
        self._attempt = attempt
        self._told = told
        self.sequence = last_sequence

    def _event(self, draft: Draft, step: str, size: int) -> RunEvent:
        self.sequence += 1
        event = draft.event()
        event.run_id = self._run_id
        event.sequence = self.sequence
        event.attempt = self._attempt
        event.epoch = self._epoch
        if step:
            event.step = step
        _write_time(event.time, time.time_ns())
        draft.size += 96 + size
        return event

    def started(self, draft: Draft, version: str, replayed: int) -> None:
        """Tell that the run has started or resumed here."""
        event = self._event(draft, "", len(version))
        event.started.epoch = self._epoch
        event.started.agent_version = version
        event.started.replayed_steps = replayed
        self._told(event)

    def step_started(self, draft: Draft, key: str, kind: int, attempt: int) -> None:
        """Tell that a try of a step begins."""
        event = self._event(draft, key, len(key))
        started = event.step_started
        started.key = key
        started.kind = kind  # type: ignore[assignment]
        started.attempt = attempt
        self._told(event)

    def step_finished(self, draft: Draft, record: Record) -> None:
        """Tell that a step was recorded."""
        event = self._event(draft, record.key, len(record.key))
        finished = event.step_finished
        finished.key = record.key
        finished.kind = record.kind
        finished.attempts = record.attempts
        finished.usage.CopyFrom(record.usage)
        finished.duration.CopyFrom(record.duration)
        if record.HasField("failure"):
            finished.failure.CopyFrom(record.failure)
        self._told(event)

    def step_failed(self, draft: Draft, key: str, attempt: int, failure: Failure, retry_in: float) -> None:
        """Tell that a try failed and another follows."""
        event = self._event(draft, key, len(key) + len(failure.message))
        failed = event.step_failed
        failed.key = key
        failed.attempt = attempt
        _write_failure(failed.failure, failure)
        write_duration(failed.retry_in, retry_in)
        self._told(event)

    def said(self, draft: Draft, step: str, text: str) -> None:
        """Tell something whole."""
        event = self._event(draft, step, len(text))
        event.said.text = text
        self._told(event)

    def token(self, draft: Draft, step: str, text: str) -> None:
        """Tell a piece."""
        event = self._event(draft, step, len(text))
        event.token.text = text
        self._told(event)

    def tool_called(self, draft: Draft, step: str, tool: str, arguments: bytes) -> None:
        """Tell that a tool is called with these arguments, as JSON."""
        event = self._event(draft, step, 4 * len(arguments))
        event.tool_called.tool = tool
        json_value.show(event.tool_called.arguments, arguments)
        self._told(event)

    def tool_returned(self, draft: Draft, step: str, tool: str, result: bytes) -> None:
        """Tell what a tool returned, as JSON."""
        event = self._event(draft, step, 4 * len(result))
        event.tool_returned.tool = tool
        json_value.show(event.tool_returned.result, result)
        self._told(event)

    def effect_staged(self, draft: Draft, step: str, effect: Effect) -> None:
        """Tell that an effect was staged."""
        event = self._event(draft, step, 128)
        staged = event.effect_staged
        staged.effect_id = effect.effect_id
        staged.destination = effect.destination
        staged.idempotency_key = effect.idempotency_key
        self._told(event)

    def ended(self, draft: Draft, outcome: Outcome, usage: Usage, elapsed: float) -> RunEvent:
        """Write how the run ends, the last event; it is told when it is durable, by who has it then."""
        event = self._event(draft, "", outcome.message.ByteSize())
        event.ended.outcome.CopyFrom(outcome.message)
        _write_usage(event.ended.usage, usage)
        event.ended.usage.elapsed_ms = int(elapsed * 1000)
        return event

    def unsay(self) -> None:
        """Take back the last number: its event was refused and has not been told."""
        self.sequence -= 1


def usage_of(record: Record) -> Usage:
    """Return what a step has cost apart from being one."""
    return Usage(0, record.usage.tools, record.usage.tokens, record.usage.context)


def write_duration(target: Duration, seconds: float) -> None:
    """Put seconds into a message."""
    whole = int(seconds)
    target.seconds = whole
    target.nanos = int((seconds - whole) * _GIGA)


def _write_time(target: Timestamp, nanoseconds: int) -> None:
    target.seconds, target.nanos = divmod(nanoseconds, _GIGA)


def _write_usage(target: run_pb2.Usage, usage: Usage) -> None:
    target.steps = usage.steps
    if usage.tools:
        target.tools = usage.tools
    if usage.tokens:
        target.tokens = usage.tokens
        target.context = usage.context


def _write_failure(target: run_pb2.Failure, failure: Failure) -> None:
    target.reason = failure.reason
    target.message = failure.message
    target.step = failure.step
    target.attempts = failure.attempts
