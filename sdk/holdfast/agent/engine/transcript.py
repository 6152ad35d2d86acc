"""What a run tells: every event numbered, pieces of speech coalesced, nothing told twice over replays."""

import asyncio
import contextvars
from typing import Final

from holdfast.agent.budget import Budget, Dimension, Limits
from holdfast.agent.degradation import Pressure
from holdfast.agent.engine.mailbox import Signal
from holdfast.agent.engine.pipeline import Pipeline
from holdfast.agent.engine.scope import Frame, Place, Scope, Tokens
from holdfast.agent.error import Failure
from holdfast.agent.wire.draft import DEGRADED, EXPECTED, MOVED, Draft, Effect, Record, usage_of
from holdfast.agent.wire.pen import Pen

LARGEST_TEXT: Final = 256 * 1024
PIECE: Final = 1024  # characters
DELAY: Final = 0.020  # seconds
MOST_PIECES: Final = 6_000
"""Pieces a second that all who speak at once tell together; beyond that each gathers longer."""
_EMPTY: Final = contextvars.Context()


class Speakers:
    """How many speak at once, on one runner: the more they are, the longer each gathers its pieces.

    An event costs the same whether it carries one word or ten, so many speakers with a short delay would
    fall behind what they say, where with a longer one they keep pace.
    """

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    @property
    def delay(self) -> float:
        """Seconds for which a piece is gathered now."""
        return max(DELAY, self.count / MOST_PIECES)


class Transcript:
    """Writes the events of one run into the drafts of its pipeline."""

    __slots__ = ("_emitted", "_loop", "_pen", "_pipeline", "_speakers", "_speaking", "closed")

    def __init__(self, pen: Pen, pipeline: Pipeline, emitted: dict[str, int], speakers: Speakers) -> None:
        self._pen = pen
        self._pipeline = pipeline
        self._emitted = emitted
        self._loop = asyncio.get_running_loop()
        self._speaking: set[Place] = set()
        self._speakers = speakers
        self.closed = False
        """The run has told all it has to tell; a model that goes on speaking is not heard."""

    def tries_before(self, key: str) -> int:
        """Return how many tries of a step without a record were told in earlier attempts."""
        return self._emitted.get(key + "!", 0)

    def started(self, version: str, replayed: int) -> None:
        """Tell that the run starts or resumes."""
        self._pen.started(self._pipeline.draft, version, replayed)

    def step_started(self, key: str, kind: int, attempt: int) -> None:
        """Tell that a try begins; the commit counts it, so that a replay of it has a higher number."""
        draft = self._pipeline.draft
        self._pen.step_started(draft, key, kind, attempt)
        mark = key + "!"
        draft.emitted[mark] = draft.emitted.get(mark, 0) + 1

    def step_finished(self, frame: Frame, record: Record) -> Draft:
        """Record a step with its effects, tell it, and return the draft it is in."""
        if frame.tokens is not None:
            self.spoken(frame)
        draft = self._pipeline.record(record, frame.effects)
        draft.emitted.pop(record.key + "!", None)  # a record says it all
        for effect in frame.effects:
            self._pen.effect_staged(draft, record.key, effect)
        if frame.received is not None:
            self._receive(draft, record, frame.received, interrupted=False)
        if frame.restarts:
            draft.restart()
        self._pen.step_finished(draft, record)
        return draft

    def step_interrupted(self, frame: Frame, record: Record, signal: Signal) -> Draft:
        """Record a step that a signal interrupted, tell it, and return the draft it is in."""
        self.spoken(frame)
        draft = self._pipeline.record(record, [])
        draft.emitted.pop(record.key + "!", None)
        self._receive(draft, record, signal, interrupted=True)
        self._pen.step_finished(draft, record)
        return draft

    def _receive(self, draft: Draft, record: Record, signal: Signal, *, interrupted: bool) -> None:
        draft.consume(signal.signal_id)
        self._pen.input_received(draft, record.key, signal.key, interrupted=interrupted)

    def step_given_up(self, frame: Frame, record: Record, *, kept: bool) -> None:
        """Tell that a step failed for good, and hold its record, or keep no more of it than what it cost."""
        self.spoken(frame)
        if kept:
            self._pipeline.hold(record)
        else:
            self._pipeline.draft.charge(usage_of(record))
        self._pen.step_finished(self._pipeline.draft, record)

    def step_failed(self, frame: Frame, attempt: int, failure: Failure, retry_in: float) -> None:
        """Tell that a try failed and another follows."""
        self.spoken(frame)
        self._pen.step_failed(self._pipeline.draft, frame.step, attempt, failure, retry_in)

    def approval_requested(self, step: str, approval_id: str, name: str) -> None:
        """Tell that a gate was opened."""
        self._pen.approval_requested(self._pipeline.draft, step, approval_id, name)

    def child_spawned(self, step: str, run_id: str, intent: str) -> None:
        """Tell that a child was started."""
        self._pen.child_spawned(self._pipeline.draft, step, run_id, intent)

    def child_ended(self, step: str, run_id: str, status: str) -> None:
        """Tell that the agent hears of a child's end."""
        self._pen.child_ended(self._pipeline.draft, step, run_id, status)

    def tool_called(self, frame: Frame, tool: str, arguments: bytes) -> None:
        """Tell that a tool is called with these arguments, as JSON."""
        self._pen.tool_called(self._pipeline.draft, frame.step, tool, arguments)

    def tool_returned(self, frame: Frame, tool: str, result: bytes) -> None:
        """Tell what a tool returned, as JSON."""
        self.spoken(frame)
        self._pen.tool_returned(self._pipeline.draft, frame.step, tool, result)

    @property
    def rungs_before(self) -> int:
        """How many rungs of the degradation ladder earlier attempts have told."""
        return self._emitted.get(DEGRADED, 0)

    def degraded(self, felt: Pressure, rung: str) -> None:
        """Tell that a rung was taken; the commit counts it, so that no replay tells it again."""
        draft = self._pipeline.draft
        self._pen.degraded(draft, felt.dimension, felt.used, felt.limit, rung)
        draft.emitted[DEGRADED] = draft.emitted.get(DEGRADED, 0) + 1

    def fell_back(self, place: Place, to: str) -> None:
        """Tell that another model is asked, for the one before it could not answer."""
        self._pen.degraded(self._pipeline.draft, 0, 0, 0, f"{place.step} asks {to}")

    def trimmed(self, place: Place, left_out: int, of: int, used: int, room: int) -> None:
        """Tell that a model is shown less than it is asked, for there is not room for all of it."""
        what = f"{place.step} leaves out {left_out} of {of} messages"
        self._pen.degraded(self._pipeline.draft, Dimension.CONTEXT, used, room, what)

    def budget_reported(self, budget: Budget) -> None:
        """Tell what is spent, and of what."""
        self._pen.budget_reported(self._pipeline.draft, budget.spent, budget.elapsed, budget.limits)

    def expected(self, scope: Scope, draft: Draft | None = None) -> None:
        """Count that a scope has said what it expects: a replay gets the same answer."""
        draft = draft or self._pipeline.draft
        mark = scope.path + EXPECTED
        draft.emitted[mark] = draft.emitted.get(mark, 0) + 1

    def patched(self, mark: str) -> None:
        """Have the next commit say that a patch was passed: a replay goes the same way."""
        self._pipeline.draft.emitted[mark] = 1

    def handed_off(self, limits: Limits, scope: Scope | None) -> Draft:
        """Move the run to the background, tell it, and return the draft it is in; `scope` has asked."""
        self.all_spoken()
        draft = self._pipeline.draft
        self._pen.handed_off(draft, limits)
        draft.hand_off()
        if scope is not None:
            self.expected(scope, draft)
            draft.emitted[scope.path + MOVED] = scope.expected
        return draft

    def say(self, place: Place, text: str) -> None:
        """Tell something whole, unless an earlier attempt has."""
        _check(text)
        if place.tokens is not None:
            self.spoken(place)
        draft = self._emission(place)
        if draft is not None:
            self._pen.said(draft, place.step, text)

    def effect(self, scope: Scope, effect: Effect) -> None:
        """Stage an effect that no step has caused, unless an earlier attempt has committed it."""
        if scope.tokens is not None:
            self.spoken(scope)
        scope.staged += 1
        if scope.staged <= scope.staged_before:
            return
        draft = self._pipeline.draft
        draft.effect_of(scope.path, effect)
        self._pen.effect_staged(draft, "", effect)

    def token(self, place: Place, text: str) -> None:
        """Tell a piece within 20 ms, or a little longer where many speak, together with its neighbours."""
        _check(text)
        if self.closed or not self._new(place):
            return
        tokens = place.tokens
        if tokens is None:
            tokens = place.tokens = Tokens()
            self._speaking.add(place)
            self._speakers.count += 1
            tokens.timer = self._loop.call_later(self._speakers.delay, self.spoken, place, context=_EMPTY)
        tokens.pieces.append(text)
        tokens.size += len(text)
        tokens.calls += 1
        if tokens.size >= PIECE:
            self.spoken(place)

    def spoken(self, place: Place) -> None:
        """Tell the pieces that wait at a place now."""
        tokens = place.tokens
        if tokens is None:
            return
        place.tokens = None
        self._speaking.discard(place)
        self._speakers.count -= 1
        if tokens.timer is not None:
            tokens.timer.cancel()
        draft = self._pipeline.draft
        if isinstance(place, Scope):
            draft.emitted[place.path] = draft.emitted.get(place.path, 0) + tokens.calls
        self._pen.token(draft, place.step, "".join(tokens.pieces))

    def all_spoken(self) -> None:
        """Tell all pieces that wait anywhere now."""
        for place in list(self._speaking):
            self.spoken(place)

    def _emission(self, place: Place) -> Draft | None:
        """Count one thing a scope tells; None if an earlier attempt has told it."""
        if not self._new(place):
            return None
        draft = self._pipeline.draft
        if isinstance(place, Scope):
            draft.emitted[place.path] = draft.emitted.get(place.path, 0) + 1
        return draft

    @staticmethod
    def _new(place: Place) -> bool:
        if not isinstance(place, Scope):
            return True  # a step that is executed tells all it has to tell
        place.said += 1
        return place.said > place.told_before


def _check(text: str) -> None:
    size = len(text.encode())  # half of a character (a lone surrogate) is refused here, where it is said
    if size > LARGEST_TEXT:
        raise ValueError(f"At most {LARGEST_TEXT:,} bytes can be said at once, not {size:,}.")
