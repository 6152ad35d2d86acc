"""Executes a step, or returns its record: tried, timed, charged, recorded, and only then believed.

asked ──(recorded)──▶ outcome of the record            (drift ends the run)
   └──(not yet)──▶ earlier records durable* ──▶ a try ──(succeeds)──▶ recorded ──▶ durable* ──▶ outcome
                                                 │ ──(interrupted)──▶ recorded ──▶ durable ──▶ Interrupted
                                                 │ ──(fails)──▶ wait ──▶ the next try
                                                 └──(fails for good)──▶ StepFailed, recorded if survived
* unless the step is repeatable
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any, NoReturn, Protocol, TypeVar

from holdfast.agent.backoff import pause
from holdfast.agent.budget import Dimension, Meter, Usage
from holdfast.agent.codec import canonical
from holdfast.agent.degradation import Degradation, pressure
from holdfast.agent.engine.allotment import Allotment
from holdfast.agent.engine.attempt import Asked, Done, Failed, Tries
from holdfast.agent.engine.background import Background
from holdfast.agent.engine.call import Call
from holdfast.agent.engine.duration import Durations
from holdfast.agent.engine.mailbox import Mailbox, Signal
from holdfast.agent.engine.pipeline import Pipeline
from holdfast.agent.engine.report import Reports
from holdfast.agent.engine.scope import Family, Frame, Place, Scope, here
from holdfast.agent.engine.transcript import Transcript
from holdfast.agent.engine.waits import Waits
from holdfast.agent.error import (
    BudgetExhausted,
    Drifted,
    Interrupted,
    NotRecordable,
    Permanent,
    RunStopped,
    StepFailed,
    failure_of,
)
from holdfast.agent.wire.draft import MODEL, TOOL, kind_name, make_record, mark_interrupted
from holdfast.agent.wire.invocation import History, Recorded

T = TypeVar("T")

LARGEST_INPUT = 64 * 1024
"""Bytes of input kept with a record; of a larger one only the fingerprint is."""
SHOWN_INPUT = 200


class Stops(Protocol):
    """Knows whether the run has been stopped, and can stop it."""

    stopped: RunStopped | None

    def stop(self, stopped: RunStopped) -> None:
        """Stop the run; repeatable, the first cause counts."""


class Stepper:
    """Executes the steps of one run."""

    __slots__ = (
        "_allotment",
        "_background",
        "_degradation",
        "_durations",
        "_family",
        "_history",
        "_mailbox",
        "_meter",
        "_pipeline",
        "_reached",
        "_reports",
        "_stops",
        "_transcript",
        "_unrecorded",
        "_waits",
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
        unrecorded: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """Take None for `durations` to foresee nothing; `unrecorded` is awaited before a step is executed."""
        self._unrecorded = unrecorded
        self._degradation = degradation
        self._reports = Reports(meter)
        self._allotment = Allotment(meter)
        self._background = background
        self._durations = durations
        self._mailbox = mailbox
        self._waits = waits
        self._family = family
        self._history = history
        self._pipeline = pipeline
        self._transcript = transcript
        self._meter = meter
        self._stops = stops
        self._reached = reached

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
        self._check_open()
        return place

    async def perform(self, key: str, call: Call) -> Any:
        """Return the outcome of a step: from its record if there is one."""
        self._check()
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
            await self._awaited(self._unrecorded(key))
        with self._waits.step():
            return await self._execute(key, call, Asked(fingerprint, asked))

    async def _execute(self, key: str, call: Call, asked: Asked) -> Any:
        """Execute a step that is not recorded, and return its outcome once it may be believed."""
        if not (call.policy.repeatable or self._pipeline.settled):
            await self._awaited(self._pipeline.settle())
        await self._foresee(call.name)
        self._press()
        kept = Asked(asked.fingerprint, asked.input if len(asked.input) <= LARGEST_INPUT else b"")
        if call.policy.optional and self._degradation.skips_optional:
            done = self._left_out(key, call, kept)
        else:
            if call.prepare is not None:
                self._reached("before_prepare")
                await call.prepare(key)
            with nullcontext() if call.wait is None else self._waits.waiting(key, call, kept):
                done = await self._reserved(key, call, kept)
        self._check_open()  # code that did not let go when it was stopped
        self._reached("after_step")
        self._meter.charge(done.usage)
        draft = self._transcript.step_finished(done.frame, done.record)
        if self._reports.due(after_model=call.kind == MODEL):
            self._transcript.budget_reported(self._meter)
        if call.policy.repeatable:
            self._pipeline.flush_soon()
        else:
            await self._awaited(self._pipeline.durable(draft))
            self._reached("after_ack")
        return done.value

    async def expect(self, seconds: float) -> bool:
        """Move the run to the background if that takes longer than there is; say whether this call did."""
        self._check()
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
        self._check()
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
            self._stops.stop(BudgetExhausted(lacking))
            self._check()
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
        if not self._background.ahead:
            return
        likely = None if self._durations is None else self._durations.p95(name)
        if self._background.needed(likely or 0.0):
            await self._move(None)

    async def _move(self, scope: Scope | None) -> bool:
        self._reached("before_handoff")
        moved = await self._awaited(self._background.move(scope))
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

    async def _reserved(self, key: str, call: Call, asked: Asked) -> Done:
        """Try the step within its share of the budget."""
        tools = 1 if call.kind == TOOL else 0
        lacking = self._meter.lacking(tools=tools, context=call.reads)
        if lacking is not None:
            self._stops.stop(BudgetExhausted(lacking))
            self._check()
        self._meter.reserve(tools=tools)
        tries = Tries(Usage(steps=1, tools=tools), Frame(self._family, key))
        began = time.perf_counter()
        try:
            if call.policy.interruptible:
                done = await self._interruptible(key, call, asked, tries)
            else:
                done = await self._tried(key, call, asked, tries)
        except (StepFailed, Interrupted):
            raise
        except BaseException:
            self._allotment.lose(tries.usage)
            raise
        finally:
            self._meter.release(tools=tools)
            self._allotment.keep(-tries.kept)
        if self._durations is not None:
            self._durations.note(call.name, time.perf_counter() - began)
        return done

    async def _interruptible(self, key: str, call: Call, asked: Asked, tries: Tries) -> Done:
        """Try, unless an urgent signal waits already, and until one comes; then raise `Interrupted`."""
        mailbox = self._mailbox
        signal = mailbox.urgent()
        if signal is None:
            watch = mailbox.watch()
            try:
                return await self._tried(key, call, asked, tries)
            except asyncio.CancelledError:
                # Whoever else cancels the step goes first: then the signal was not what ended it.
                signal = watch.ends_step()
                if signal is None:
                    raise
            finally:
                mailbox.unwatch(watch)
        return await self._interrupted(key, call, asked, tries, signal)

    async def _interrupted(
        self, key: str, call: Call, asked: Asked, tries: Tries, signal: Signal
    ) -> NoReturn:
        """Record that a signal has ended the step, and raise it once that is durable."""
        self._check()
        self._check_open()
        interrupted = Interrupted(json.loads(signal.payload), key=signal.key)
        record = make_record(
            key,
            call.kind,
            asked.fingerprint,
            input=asked.input,
            failure=failure_of(interrupted, step=key, attempts=tries.count),
            attempts=tries.count,
            usage=tries.usage,
            duration=tries.took,
        )
        mark_interrupted(record, signal.signal_id, signal.key, signal.payload)
        self._meter.charge(tries.usage)
        draft = self._transcript.step_interrupted(tries.frame, record, signal)
        await self._awaited(self._pipeline.durable(draft))
        self._reached("after_ack")
        raise interrupted

    async def _tried(self, key: str, call: Call, asked: Asked, so_far: Tries) -> Done:
        """Try until it succeeds or fails for good."""
        transcript = self._transcript
        told_before = transcript.tries_before(key)
        usage = so_far.usage
        tries = 0
        while True:
            await self._allowed(call)
            so_far.count = tries = tries + 1
            if not self._waits.resumed(key):
                transcript.step_started(key, call.kind, told_before + tries)
            self._reached("before_step")
            so_far.frame = frame = Frame(self._family, key)
            started = time.perf_counter()
            try:
                encoded, value = await self._once(key, call, frame)
            except (asyncio.CancelledError, RunStopped):
                so_far.took = time.perf_counter() - started
                self._count(usage, frame)
                raise
            except Exception as error:  # noqa: BLE001 -- a step may fail with anything
                so_far.took = took = time.perf_counter() - started
                self._count(usage, frame)
                self._allotment.keep(frame.tokens_used)
                so_far.kept += frame.tokens_used
                failed = Failed(error, tries, told_before + tries, usage, took)
                delay = self._failed(call, asked, frame, failed)
            else:
                took = time.perf_counter() - started
                self._count(usage, frame)
                record = make_record(
                    key,
                    call.kind,
                    asked.fingerprint,
                    input=asked.input,
                    output=encoded,
                    attempts=tries,
                    usage=usage,
                    duration=took,
                )
                return Done(value, record, frame, usage)
            finally:
                if call.writes:
                    self._allotment.give_back(call.reads, call.allowed)
            await self._awaited(asyncio.sleep(delay))

    async def _allowed(self, call: Call) -> None:
        """Set the tokens of a try aside; where there are none left, stop the run."""
        if not call.writes:
            return
        call.allowed = await self._awaited(self._allotment.take(call.reads, call.writes))
        if not call.allowed:
            self._stops.stop(BudgetExhausted(Dimension.TOKENS))
            self._check()

    def lost(self) -> Usage:
        """Charge what was paid for steps without a record, and return it: it goes with the last commit."""
        lost = self._allotment.lost()
        self._meter.charge(lost)
        return lost

    def _count(self, usage: Usage, frame: Frame) -> None:
        usage.tokens += frame.tokens_used
        # The provider may count more than was estimated: the call is paid for, its record must not be lost.
        usage.context = max(usage.context, min(frame.context, self._meter.context))

    def _failed(self, call: Call, asked: Asked, frame: Frame, failed: Failed) -> float:
        """Return how long to wait before the next try, or raise `StepFailed`."""
        self._check()
        error, tries = failed.error, failed.tries
        failure = failure_of(error, step=frame.step, attempts=tries)
        permanent = isinstance(error, Permanent) or not getattr(error, "retryable", True)
        if not permanent and tries < call.policy.attempts:
            elsewhere = getattr(error, "elsewhere", False)
            delay = 0.0 if elsewhere else max(pause(tries), getattr(error, "retry_after", None) or 0.0)
            self._transcript.step_failed(frame, failed.told_as, failure, delay)
            return delay
        self._meter.charge(failed.usage)
        record = make_record(
            frame.step,
            call.kind,
            asked.fingerprint,
            input=asked.input,
            failure=failure,
            attempts=tries,
            usage=failed.usage,
            duration=failed.took,
        )
        self._transcript.step_given_up(frame, record)
        raise StepFailed(failure, permanent=permanent) from error

    async def _once(self, key: str, call: Call, frame: Frame) -> tuple[bytes, Any]:
        """Execute the step's function once, in a place of its own."""
        place = here.get()
        here.set(frame)
        try:
            if call.policy.timeout is None:
                value = await call.execute(key, frame)
            else:
                async with asyncio.timeout(call.policy.timeout):
                    value = await call.execute(key, frame)
        except asyncio.CancelledError:
            self._check()
            raise
        except SystemExit as error:
            raise RuntimeError("the step tried to exit the process") from error
        finally:
            here.set(place)
        try:
            encoded, value = call.result.record(value)
        except NotRecordable as error:
            raise NotRecordable(f"The output of step {key} cannot be recorded: {error}.") from error
        if call.tells_result is not None:
            call.tells_result(frame, encoded)
        return encoded, value

    async def _awaited(self, wait: Awaitable[T]) -> T:
        """Wait for something of the engine's own; a run that was stopped goes no further."""
        try:
            value = await wait
        except asyncio.CancelledError:
            self._check()
            raise
        self._check()
        return value

    def _check(self) -> None:
        if self._stops.stopped is not None:
            raise self._stops.stopped

    def _check_open(self) -> None:
        if self._transcript.closed:
            raise self._stops.stopped or RunStopped("the run has ended")

    def _drifted(self, key: str, message: str) -> None:
        self._stops.stop(Drifted(key, message))
        self._check()


def _shown(asked: bytes) -> str:
    if not asked:
        return "(not kept)"
    text = asked.decode(errors="replace")
    return text if len(text) <= SHOWN_INPUT else text[: SHOWN_INPUT - 1] + "…"
