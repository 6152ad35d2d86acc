"""Tries a step, within its share of the budget, until it succeeds, fails for good or is interrupted.

a try ──(succeeds)──▶ done, to be recorded
   ▲ ├──(interrupted)──▶ recorded ──▶ durable ──▶ Interrupted
   │ ├──(fails)──▶ wait ─┐
   │ └──(fails for good)─┼──▶ StepFailed, recorded if survived
   └─────────────────────┘
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, NoReturn

from holdfast.agent.backoff import pause
from holdfast.agent.budget import Dimension, Meter, Usage
from holdfast.agent.engine.allotment import Allotment
from holdfast.agent.engine.attempt import Asked, Done, Failed, Tries
from holdfast.agent.engine.call import Call
from holdfast.agent.engine.duration import Durations
from holdfast.agent.engine.halt import Halt
from holdfast.agent.engine.mailbox import Mailbox, Signal
from holdfast.agent.engine.pipeline import Pipeline
from holdfast.agent.engine.scope import Family, Frame, here
from holdfast.agent.engine.transcript import Transcript
from holdfast.agent.engine.waits import Waits
from holdfast.agent.error import (
    BudgetExhausted,
    Interrupted,
    NotRecordable,
    Permanent,
    RunStopped,
    StepFailed,
    failure_of,
)
from holdfast.agent.undo import Undos
from holdfast.agent.wire.draft import TOOL, make_record, mark_interrupted


class Trials:
    """Tries the steps of one run."""

    __slots__ = (
        "_allotment",
        "_durations",
        "_family",
        "_halt",
        "_mailbox",
        "_meter",
        "_pipeline",
        "_reached",
        "_transcript",
        "_undos",
        "_waits",
    )

    def __init__(
        self,
        *,
        family: Family,
        pipeline: Pipeline,
        transcript: Transcript,
        meter: Meter,
        halt: Halt,
        reached: Callable[[str], None],
        durations: Durations | None,
        mailbox: Mailbox,
        waits: Waits,
        undos: Undos,
    ) -> None:
        """Take None for `durations` to note none."""
        self._allotment = Allotment(meter)
        self._durations = durations
        self._family = family
        self._halt = halt
        self._mailbox = mailbox
        self._meter = meter
        self._pipeline = pipeline
        self._reached = reached
        self._transcript = transcript
        self._waits = waits
        self._undos = undos

    async def run(self, key: str, call: Call, asked: Asked) -> Done:
        """Try a step within its share of the budget. Raises `StepFailed`, `Interrupted`, what stopped it."""
        tools = 1 if call.kind == TOOL else 0
        lacking = self._meter.lacking(tools=tools, context=call.reads)
        if lacking is not None:
            self._halt.stop(BudgetExhausted(lacking))
        self._meter.reserve(tools=tools)
        tries = Tries(Usage(steps=1, tools=tools), Frame(self._family, key))
        began = time.perf_counter()
        try:
            with self._family.observer.step(key, call.name, call.kind):
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
        self._halt.check()
        self._halt.check_open()
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
        record.undoable = call.undoable
        mark_interrupted(record, signal.signal_id, signal.key, signal.payload)
        self._meter.charge(tries.usage)
        draft = self._transcript.step_interrupted(tries.frame, record, signal)
        await self._halt.awaited(self._pipeline.sent(draft))
        self._reached("after_ack")
        raise interrupted

    async def _tried(self, key: str, call: Call, asked: Asked, so_far: Tries) -> Done:
        """Try until it succeeds or fails for good."""
        transcript = self._transcript
        told_before = transcript.tries_before(key)
        usage = so_far.usage
        tries = 0
        while True:
            if call.writes:
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
            await self._halt.awaited(asyncio.sleep(delay))

    async def _allowed(self, call: Call) -> None:
        """Set the tokens of a try aside; where there are none left, stop the run."""
        call.allowed = await self._halt.awaited(self._allotment.take(call.reads, call.writes))
        if not call.allowed:
            self._halt.stop(BudgetExhausted(Dimension.TOKENS))

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
        self._halt.check()
        error, tries = failed.error, failed.tries
        failure = failure_of(error, step=frame.step, attempts=tries)
        permanent = isinstance(error, Permanent) or not getattr(error, "retryable", True)
        if not permanent and tries < call.policy.attempts:
            elsewhere = getattr(error, "elsewhere", False)
            delay = 0.0 if elsewhere else max(pause(tries), getattr(error, "retry_after", None) or 0.0)
            self._transcript.step_failed(frame, failed.told_as, failure, delay)
            self._family.observer.tried_again(call.kind)
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
        # What is refused at the first try has not taken effect; what gave up after another failure may have.
        record.undoable = call.undoable and not (permanent and tries == 1 and not asked.begun)
        if call.undoable and not record.undoable:
            self._undos.keys.pop(frame.step, None)
        self._transcript.step_given_up(frame, record, kept=not call.undoes)
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
            self._halt.check()
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
