"""One commit in the making: records, effects and events that become durable together."""

from collections.abc import Iterable
from typing import Any, Final

from holdfast.agent.budget import Dimension, Usage
from holdfast.agent.error import Failure
from holdfast.agent.wire import value as json_value
from holdfast.agent.wire.field import GIGA, write_duration, write_failure, write_time, write_usage
from holdfast.v1 import checkpoint_pb2, run_pb2, transcript_pb2
from holdfast.v1.transcript_pb2 import EventBatch, RunEvent

Commit = checkpoint_pb2.Commit
Event = RunEvent
Record = checkpoint_pb2.StepRecord
Effect = checkpoint_pb2.EffectIntent
SessionWrite = checkpoint_pb2.SessionWrite

FUNCTION: Final = 1
MODEL: Final = 2
TOOL: Final = 3
WAIT: Final = 4
"""The kinds of steps, numbered as `holdfast.v1.StepKind`."""

QUEUED: Final = 1
SUCCEEDED: Final = 5
PARTIAL: Final = 6
FAILED: Final = 7
CANCELLED: Final = 8
COMPENSATED: Final = 9
DRIFTED: Final = 11
"""The statuses a runner moves a run to, numbered as `holdfast.v1.RunStatus`."""

STAGED: Final = ">"
"""Marks the count of the effects that a scope has staged, beside that of what it has told."""
EXPECTED: Final = "!?"
"""Marks how often a scope has said what it expects."""
DEGRADED: Final = "!^"
"""Counts the rungs of the degradation ladder that have been told."""

MOVED: Final = "!~"
"""Marks which of these moved the run to the background."""
PATCHED: Final = "!="
"""Between a scope and a patch in `emitted`: the scope has passed that patch, and was told so."""


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
            write_failure(self.message.failure, failure)

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return self.message.ByteSize()


class Draft:
    """Grows until it is sent; its events are a message apart, so that who keeps events keeps no more."""

    __slots__ = ("_commit", "_events", "emitted", "recorded", "size", "staged")

    def __init__(self) -> None:
        self._commit = Commit()
        self._events = EventBatch()
        self.emitted: dict[str, int] = {}
        self.staged: dict[str, int] = {}
        self.recorded = False
        self.size = 0

    @property
    def empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not self.recorded and not self._events.events and not self._commit.effects

    def event(self, **fields: Any) -> RunEvent:
        """Begin the next event."""
        return self._events.events.add(**fields)

    def record(self, record: Record) -> None:
        """Add a step's record."""
        self._commit.steps.append(record)
        self.recorded = True
        self.size += len(record.input) + len(record.output) + 256

    def effect(self, effect: Effect) -> None:
        """Add an effect."""
        self._commit.effects.append(effect)
        self.size += len(effect.body) + 256

    def effect_of(self, scope: str, effect: Effect) -> None:
        """Add an effect that no step has caused, and count it."""
        self.effect(effect)
        self.staged[scope] = self.staged.get(scope, 0) + 1

    def consume(self, signal_id: str) -> None:
        """Take a signal out of the run's mailbox."""
        self._commit.consumed_signal_ids.append(signal_id)

    def restart(self) -> None:
        """Say that the agent begins anew: nobody waits any more for what it has asked people and children."""
        self._commit.restarts = True

    def charge(self, usage: Usage) -> None:
        """Charge what no record is charged with."""
        charged = self._commit.usage
        charged.tools += usage.tools
        charged.tokens += usage.tokens
        charged.context = max(charged.context, usage.context)

    def end(self, outcome: Outcome, session: SessionWrite | None) -> None:
        """Make the run end with this commit, and leave this in its session."""
        self._commit.end.CopyFrom(outcome.message)
        if session is not None:
            self._commit.session.CopyFrom(session)

    def requeue(self, failure: Failure | None, delay: float, *, blameless: bool) -> None:
        """Make the run go back to the queue with this commit."""
        move = self._commit.requeue
        move.blameless = blameless
        write_duration(move.delay, delay)
        if failure is not None:
            write_failure(move.failure, failure)

    def park(self, keys: Iterable[str], seconds: float | None) -> None:
        """Make the run rest with this commit, until a signal under a key comes or the seconds are over."""
        move = self._commit.park
        move.keys.extend(dict.fromkeys(keys))
        if seconds is not None:
            write_duration(move.wait_for, seconds)

    def undo_on(self, ends: Iterable[int], within: float) -> None:
        """Say which ends have the run's steps undone, as `UndoOn`, and how many seconds that may take."""
        terms = self._commit.compensation
        terms.undo_on[:] = ends  # type: ignore[assignment]
        write_duration(terms.within, within)

    def compensate(self, cause: Failure) -> None:
        """Make the run go back to the queue with this commit, to have its steps undone."""
        write_failure(self._commit.compensate.cause, cause)

    def hand_off(self) -> None:
        """Make the run move to the background with this commit."""
        self._commit.handoff = True

    def forget_records(self) -> None:
        """Leave only the events that have been told: all but the run's end.

        Effects are not staged then, and a replay stages them: only the others count as told.
        """
        handoff = self._commit.handoff  # it is told: it goes with what is told
        self._commit.Clear()
        self._commit.handoff = handoff
        self.staged.clear()
        events = self._events.events
        if events and events[-1].WhichOneof("event") == "ended":
            del events[-1]
        self.recorded = False

    def absorb(self, later: "Draft") -> None:
        """Take the events of the next draft in."""
        self._events.events.extend(later._events.events)  # noqa: SLF001 -- of the same class
        self._commit.handoff |= later._commit.handoff  # noqa: SLF001
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
            # Nothing that counts here comes without an event, but what is expected: that is asked again.
            for scope, count in self.emitted.items():
                commit.emitted[scope] = count
        for scope, count in self.staged.items():
            commit.emitted[scope + STAGED] = count
        return commit


def kind_name(kind: int) -> str:
    """Return what people call a kind of step."""
    try:
        return transcript_pb2.StepKind.Name(kind)  # type: ignore[arg-type]  # a kind of a later contract has no name
    except ValueError:
        return f"kind {kind}"


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
    write_usage(record.usage, usage)
    write_duration(record.duration, duration)
    if failure is not None:
        write_failure(record.failure, failure)
    return record


def make_intent(
    key: str,
    kind: int,
    fingerprint: bytes,
    asked: bytes,
    *,
    wait_for: float | None = None,
    undoable: bool = False,
) -> Record:
    """Make what is recorded before a step's outcome; of a wait, with the seconds it still takes."""
    record = Record(
        key=key,
        kind=kind,  # type: ignore[arg-type]
        fingerprint=fingerprint,
        input=asked,
        intent=True,
        undoable=undoable,
    )
    if wait_for is not None:
        write_duration(record.wait_for, wait_for)
    return record


def mark_interrupted(record: Record, signal_id: str, key: str, payload: bytes) -> None:
    """Say which signal interrupted the step; `payload` is JSON."""
    record.interruption.signal_id = signal_id
    record.interruption.key = key
    record.interruption.payload = payload


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
        write_time(effect.not_before, int(not_before * GIGA))
    return effect


def usage_of(record: Record) -> Usage:
    """Return what a step has cost apart from being one."""
    return Usage(0, record.usage.tools, record.usage.tokens, record.usage.context)
