"""Executes a step, or returns its record: tried, timed, charged, recorded, and only then believed.

asked ──(recorded)──▶ outcome of the record            (drift ends the run)
   └──(not yet)──▶ earlier records durable* ──▶ tried (`trial`) ──▶ recorded ──▶ durable* ──▶ outcome
* unless the step is repeatable
"""

import hashlib
import json
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Final, TypeVar

from holdfast.agent.budget import Meter, Usage
from holdfast.agent.codec import canonical
from holdfast.agent.degradation import Degradation, pressure
from holdfast.agent.engine.attempt import Asked, Done
from holdfast.agent.engine.background import Background
from holdfast.agent.engine.call import Call
from holdfast.agent.engine.duration import Durations
from holdfast.agent.engine.halt import Halt, Stops
from holdfast.agent.engine.mailbox import Mailbox
from holdfast.agent.engine.pipeline import Pipeline
from holdfast.agent.engine.report import Reports
from holdfast.agent.engine.scope import Family, Frame, Place, Scope, here
from holdfast.agent.engine.transcript import Transcript
from holdfast.agent.engine.trial import Trials
from holdfast.agent.engine.waits import Waits
from holdfast.agent.error import (
    BudgetExhausted,
    Drifted,
    HandedBack,
    Interrupted,
    NotRecordable,
    StepFailed,
)
from holdfast.agent.undo import ENDS, Undos
from holdfast.agent.wire.draft import MODEL, kind_name, make_intent, make_record
from holdfast.agent.wire.invocation import History, Recorded

T = TypeVar("T")

LARGEST_INPUT = 64 * 1024
"""Bytes of input kept with a record; of a larger one only the fingerprint is."""
SHOWN_INPUT = 200
_NOTHING: Final = nullcontext()


class Stepper:
    """Executes the steps of one run."""

    __slots__ = (
        "_background",
        "_degradation",
        "_durations",
        "_family",
        "_halt",
        "_history",
        "_meter",
        "_pipeline",
        "_reached",
        "_reports",
        "_transcript",
        "_trials",
        "_undos",
        "_unrecorded",
        "_waits",
        "pausing",
    )

    def __init__(
        self,
        *,
        family: Family,
        history: History,
        pipeline: Pipeline,
        transcript: Transcript,
        meter: Meter,
        stops: Stops,
        reached: Callable[[str], None],
        background: Background,
        durations: Durations | None,
        degradation: Degradation,
        mailbox: Mailbox,
        waits: Waits,
        undos: Undos,
        unrecorded: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """Take None for `durations` to foresee nothing; `unrecorded` is awaited before a step is executed."""
        self._unrecorded = unrecorded
        self._degradation = degradation
        self._reports = Reports(meter)
        self._background = background
        self._durations = durations
        self._waits = waits
        self._undos = undos
        self._family = family
        self._history = history
        self._pipeline = pipeline
        self._transcript = transcript
        self._meter = meter
        self._reached = reached
        self._halt = Halt(stops, transcript)
        self.pausing = False
        """Somebody holds the run: no further step begins here."""
        self._trials = Trials(
            family=family,
            pipeline=pipeline,
            transcript=transcript,
            meter=meter,
            halt=self._halt,
            reached=reached,
            durations=durations,
            mailbox=mailbox,
            waits=waits,
            undos=undos,
        )

    def scope(self) -> Scope:
        """Return the scope of the code that runs now. Raises RuntimeError inside of a step."""
        place = self.place()
        if not isinstance(place, Scope):
            raise RuntimeError(  # noqa: TRY004 -- the place is wrong, not a type
                f"The step {place.step} is one recorded whole: it cannot start others."
            )
        return place

    def place(self) -> Place:
        """Return where the code that runs now stands. Raises RuntimeError outside of the run."""
        place = here.get()
        if place is None or place.owner is not self._family:
            raise RuntimeError("A run can only be used from its agent's own tasks.")
        self._halt.check_open()
        return place

    async def perform(self, key: str, call: Call) -> Any:
        """Return the outcome of a step: from its record if there is one."""
        self._halt.check()
        try:
            asked = canonical(call.input)
        except NotRecordable as error:
            raise NotRecordable(f"The input of step {key} cannot be recorded: {error}.") from error
        fingerprint = hashlib.sha256(call.name.encode() + b"\n" + asked).digest()
        recorded = self._history.take(key)
        if recorded is not None:
            return self._replayed(key, call, recorded, fingerprint, asked)
        begun = self._history.intent(key)
        if begun is not None:
            self._compare(key, call, begun, fingerprint, asked)
        if self._unrecorded is not None:
            await self._halt.awaited(self._unrecorded(key))
        self._waits.step_begins()
        try:
            return await self._execute(key, call, Asked(fingerprint, asked, begun is not None))
        finally:
            self._waits.step_is_over()

    async def _execute(self, key: str, call: Call, asked: Asked) -> Any:
        """Execute a step that is not recorded, and return its outcome once it may be believed."""
        if not (call.policy.repeatable or self._pipeline.settled):
            await self._halt.awaited(self._pipeline.settle())
        if self.pausing:
            self._halt.stop(HandedBack())
        if self._background.ahead:
            await self._foresee(call.name)
        if self._degradation.has_more:
            self._press()
        kept = asked if len(asked.input) <= LARGEST_INPUT else replace(asked, input=b"")
        if call.policy.optional and self._degradation.skips_optional:
            done = self._left_out(key, call, kept)
        else:
            if call.prepare is not None:
                self._reached("before_prepare")
                await call.prepare(key)
            if call.undoable and not asked.begun:
                await self._begin(key, call, kept)
            with _NOTHING if call.wait is None else self._waits.waiting(key, call, kept):
                done = await self._trials.run(key, call, kept)
        self._halt.check_open()  # code that did not let go when it was stopped
        self._reached("after_step")
        self._meter.charge(done.usage)
        done.record.undoable = call.undoable
        draft = self._transcript.step_finished(done.frame, done.record)
        if self._reports.due(after_model=call.kind == MODEL):
            self._transcript.budget_reported(self._meter)
        if call.policy.repeatable:
            self._pipeline.flush_soon()
        else:
            await self._halt.awaited(self._pipeline.sent(draft))
            self._reached("after_ack")
        return done.value

    async def _begin(self, key: str, call: Call, asked: Asked) -> None:
        """Make durable that a step begins which may have to be undone, though its outcome never comes."""
        draft = self._pipeline.draft
        draft.record(make_intent(key, call.kind, asked.fingerprint, asked.input, undoable=True))
        terms = self._undos.terms
        draft.undo_on([ENDS.index(end) + 1 for end in terms.on], terms.within)
        self._undos.keys.setdefault(key)
        await self._halt.awaited(self._pipeline.sent(draft))
        self._reached("after_intent")

    async def expect(self, seconds: float) -> bool:
        """Move the run to the background if that takes longer than there is; say whether this call did."""
        self._halt.check()
        scope = self.scope()
        scope.expected += 1
        if scope.expected <= scope.expected_before:
            return scope.expected == scope.moved_at
        if not self._background.needed(seconds):
            self._transcript.expected(scope)
            return False
        return await self._move(scope)

    def patched(self, patch: str) -> bool:
        """Say whether the scope goes the new way; the next commit says so, too."""
        self._halt.check()
        answer, mark = self.scope().patched(patch)
        if mark:
            self._transcript.patched(mark)
        return answer

    def _press(self) -> None:
        """Take the rungs of degradation that the budget asks for."""
        felt = pressure(self._meter)
        for rung in self._degradation.due(felt):
            self._transcript.degraded(felt, str(rung))

    def _left_out(self, key: str, call: Call, asked: Asked) -> Done:
        """Record that an optional step was not executed, so that a replay leaves it out too."""
        lacking = self._meter.lacking()
        if lacking is not None:
            self._halt.stop(BudgetExhausted(lacking))
        usage = Usage(steps=1)
        record = make_record(
            key,
            call.kind,
            asked.fingerprint,
            input=asked.input,
            output=b"null",
            attempts=0,
            usage=usage,
            duration=0.0,
        )
        return Done(None, record, Frame(self._family, key), usage)

    async def _foresee(self, name: str) -> None:
        """Move the run to the background before a step that would probably miss the deadline.

        Wait also for a move under way: before it is durable no step starts, for the old deadline may be over.
        """
        likely = None if self._durations is None else self._durations.p95(name)
        if self._background.needed(likely or 0.0):
            await self._move(None)

    async def _move(self, scope: Scope | None) -> bool:
        self._reached("before_handoff")
        moved = await self._halt.awaited(self._background.move(scope))
        self._reached("after_handoff")
        return moved

    def _replayed(self, key: str, call: Call, recorded: Recorded, fingerprint: bytes, asked: bytes) -> Any:
        self._compare(key, call, recorded, fingerprint, asked)
        if recorded.interruption is not None:
            mailbox_key, payload = recorded.interruption
            raise Interrupted(json.loads(payload), key=mailbox_key)
        if recorded.failure is not None:
            raise StepFailed(recorded.failure, permanent=True)
        try:
            return call.result.read(recorded.output)
        except NotRecordable as error:
            return self._drifted(key, f"step {key}: {error}")

    def _compare(self, key: str, call: Call, recorded: Recorded, fingerprint: bytes, asked: bytes) -> None:
        """Stop the run if a step is asked as another kind, or with another input, than it was recorded."""
        if recorded.kind != call.kind:
            was, now = kind_name(recorded.kind), kind_name(call.kind)
            self._drifted(key, f"step {key} was recorded as {was} and is now asked as {now}")
        if recorded.fingerprint != fingerprint:
            was, now = _shown(recorded.input), _shown(asked)
            self._drifted(key, f"step {key} was recorded with the input {was} and is now asked with {now}")

    def lost(self) -> Usage:
        """Charge what was paid for steps without a record, and return it: it goes with the last commit."""
        return self._trials.lost()

    def _drifted(self, key: str, message: str) -> None:
        self._halt.stop(Drifted(key, message))


def _shown(asked: bytes) -> str:
    if not asked:
        return "(not kept)"
    text = asked.decode(errors="replace")
    return text if len(text) <= SHOWN_INPUT else text[: SHOWN_INPUT - 1] + "…"
