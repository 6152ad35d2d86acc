"""Executes one leased run from its history to its end, and says how it left this runner.

started ──▶ the agent runs ──(returns)──────────────▶ SUCCEEDED
              │ ──(Permanent, a step's permanent failure)──▶ FAILED
              │ ──(any other exception)─────────────▶ back to the queue, FAILED after `max_attempts`
              │ ──(stopped: cancelled, exhausted, drifted, refused)──▶ CANCELLED, PARTIAL, DRIFTED, FAILED
              │ ──(any of these ends that has its steps undone)──▶ back to the queue, to undo them
              │ ──(stopped: handed back)────────────▶ back to the queue, unharmed
              │ ──(stopped: it only waits)──────────▶ parked, until what it waits for has come
              └ ──(stopped: lease lost)─────────────▶ nothing more is committed
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from typing import Any, Final, Required, TypedDict

from holdfast.agent.app import Agent
from holdfast.agent.approval import NO_GATES, Gates
from holdfast.agent.backoff import pause
from holdfast.agent.budget import Dimension, Meter
from holdfast.agent.child import NO_CHILDREN, Children
from holdfast.agent.degradation import Degradation
from holdfast.agent.ending import Move, decide, undone_first
from holdfast.agent.engine.background import Background
from holdfast.agent.engine.call import Call
from holdfast.agent.engine.gate import Door
from holdfast.agent.engine.journal import Journal, Refused
from holdfast.agent.engine.mailbox import Mailbox, signal_of
from holdfast.agent.engine.nursery import Nursery
from holdfast.agent.engine.observer import NOBODY, Observer
from holdfast.agent.engine.pipeline import Pipeline
from holdfast.agent.engine.restart import Restarts
from holdfast.agent.engine.scope import Family, Scope, here, number_tasks
from holdfast.agent.engine.stepper import Stepper
from holdfast.agent.engine.transcript import Speakers, Transcript
from holdfast.agent.engine.waits import Waits
from holdfast.agent.error import (
    LONGEST_MESSAGE,
    BudgetExhausted,
    CommitRefused,
    Failure,
    LeaseLost,
    RunCancelled,
    RunStopped,
    storable,
)
from holdfast.agent.model_ladder import Models
from holdfast.agent.run import Run
from holdfast.agent.session import Session
from holdfast.agent.undo import Undos
from holdfast.agent.wire.draft import Draft, Event
from holdfast.agent.wire.invocation import History, Invocation
from holdfast.agent.wire.pen import Pen

STOP_GRACE: Final = 1.0
"""Seconds that agent code has to unwind after it was stopped; then the run ends without it."""
LAST_WORDS: Final = 2.0
"""Seconds that `on_exhausted` has."""

LOST_REASONS: Final = frozenset({"FENCED", "RUN_NOT_FOUND", "COMMIT_OUT_OF_ORDER"})
"""The lease is over, or as good as over."""
STILL_HELD: Final = "COMMIT_OUT_OF_ORDER"
"""The lease is this runner's, but the ledger knows another past: only a new lease can tell which."""


class Left(Enum):
    """How a run left this runner."""

    ENDED = "its end is durable"
    REQUEUED = "it is parked, or back in the queue"
    LOST = "another has it, or may have it"
    REFUSED = "even its end was refused: the lease is still held"


class Parts(TypedDict, total=False):
    """What an execution is given beside the run: see `Execution`."""

    models: Required[Callable[[], Models]]
    reached: Callable[[str], None]
    mailbox: Mailbox | None
    gates: Gates
    children: Children
    clock: Callable[[], float]
    observer: Observer
    speakers: Speakers


class Execution:
    """One run on this runner: `run()` it once, `stop()` it from outside at any time."""

    def __init__(
        self,
        agent: Agent,
        invocation: Invocation,
        history: History,
        journal: Journal,
        *,
        models: Callable[[], Models],
        reached: Callable[[str], None] = lambda _: None,
        mailbox: Mailbox | None = None,
        gates: Gates = NO_GATES,
        children: Children = NO_CHILDREN,
        clock: Callable[[], float] = time.monotonic,
        observer: Observer = NOBODY,
        speakers: Speakers | None = None,
        unrecorded: Callable[[str], Awaitable[None]] | None = None,
        ends: Callable[[RunStopped | None, BaseException | None], Move] | None = None,
    ) -> None:
        """Take the mailbox that pushed signals go to; what waited for the run before is in the history.

        `clock` is what the deadline is measured with, in seconds; the loop's own where that jumps.
        `observer` watches what is executed. `speakers` counts who speaks beside this run; none if not given.
        `unrecorded` is awaited with the key of each step that is about to be executed, for who replays only.
        `ends` decides where the run goes when that is not for the agent to say.
        """
        self.stopped: RunStopped | None = None
        self.failure: Failure | None = None
        """Why the attempt has failed, if it has and once that is durable."""
        self._agent = agent
        self._ends = ends
        self._invocation = invocation
        self._replayed = history.length
        self._reached = reached
        self._loop = asyncio.get_running_loop()
        number_tasks(self._loop)
        self._family = Family(history.emitted, history.keys(), observer)
        self._meter = Meter(invocation.limits, invocation.spent, invocation.remaining, clock, invocation.lent)
        self._pipeline = Pipeline(
            invocation.run_id,
            invocation.epoch,
            invocation.last_commit,
            journal,
            refused=self._refused,
            cancelled=lambda: self.stop(RunCancelled()),
        )
        self._journal = journal
        self._pen = Pen(
            invocation.run_id,
            invocation.epoch,
            invocation.attempt,
            invocation.last_sequence,
            journal.happened,
        )
        self._transcript = Transcript(self._pen, self._pipeline, history.emitted, speakers or Speakers())
        self._timer: asyncio.TimerHandle | None = None
        background = Background(
            None if history.handed_off else invocation.handoff,
            pipeline=self._pipeline,
            transcript=self._transcript,
            meter=self._meter,
            deadline=self,
            clock=clock,
        )
        degradation = Degradation(agent.degrade, self._transcript.rungs_before)
        self.undos = Undos(agent.undo, dict(history.undoable))
        """What of the run would be undone, and on which ends."""
        self._mailbox = mailbox = mailbox or Mailbox()
        leased = self._loop.time()
        waits = Waits(history, self._pipeline, self, lambda: invocation.time + self._loop.time() - leased)
        nursery = Nursery(
            invocation=invocation,
            children=children,
            mailbox=mailbox,
            waits=waits,
            meter=self._meter,
            transcript=self._transcript,
        )
        mailbox.loaded(map(signal_of, history.signals), history.mail_last)
        self._stepper = Stepper(
            family=self._family,
            history=history,
            pipeline=self._pipeline,
            transcript=self._transcript,
            meter=self._meter,
            stops=self,
            reached=reached,
            unrecorded=unrecorded,
            background=background,
            durations=agent.durations,
            degradation=degradation,
            mailbox=mailbox,
            waits=waits,
            undos=self.undos,
        )
        self.restarts = Restarts(mailbox, history, self.undos, self, wanted=agent.on_input == "restart")
        """Where the agent begins, and what was said to it until then."""
        self._session = Session(agent.session, history.session)
        self._run = Run(
            invocation,
            self._stepper,
            self._transcript,
            self._meter,
            models,
            session=self._session,
            degradation=degradation,
            trim=agent.trim,
            mailbox=mailbox,
            waits=waits,
            door=Door(invocation, gates, mailbox, waits, self._transcript),
            nursery=nursery,
            undos=self.undos,
            restarts=self.restarts,
        )
        self._root = Scope(self._family, "")
        self._timers: list[asyncio.TimerHandle] = []
        self._driver: asyncio.Task[None] | None = None
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._value: Any = None
        self._error: BaseException | None = None
        self._refusal: Failure | None = None
        self._closing = False
        self._still_held = False

    async def run(self) -> Left:
        """Run the agent to its end and commit that. Never raises for what the agent does.

        A crash at any point loses at most what was not acknowledged; the next lease goes on from there.
        Cancelling this abandons the run as a crash would.
        """
        self.set()
        self._transcript.started(self._agent.version, self._replayed)
        try:
            if self.stopped is None:
                self._driver = self._family.spawn(self._driven(), self._root)
                self._driver.add_done_callback(self._agent_done)
                await self._finished
            else:
                self._error = self.stopped
            return await self._close()
        finally:
            self._transcript.closed = True
            if self._driver is not None:
                self._driver.cancel()
            self.hold()
            for timer in self._timers:
                timer.cancel()

    def forget(self) -> None:
        """Let go of all that this is made of, once `run` has returned: nothing else may be asked of it.

        Its parts refer back to it, so that they would wait for the garbage collector, which under load would
        stop everything for as long as it takes to look through all runs.
        """
        self._mailbox.close()
        stopped, finished = self.stopped, self._finished
        self.__dict__.clear()
        self.stopped, self._finished = stopped, finished

    def stop(self, stopped: RunStopped) -> None:
        """Stop the run: what its agent waits for is cancelled. Repeatable; the first cause counts.

        A lost lease counts even after another cause. Once the end is being committed nothing else does.
        """
        if isinstance(stopped, RunCancelled) and self._invocation.compensating is not None:
            return  # it is on its way out already
        lost = isinstance(stopped, LeaseLost)
        if lost and not isinstance(self.stopped, LeaseLost):
            self.stopped = stopped
            self._pipeline.abandon()
        elif self.stopped is not None or self._closing:
            return
        self.stopped = stopped
        self._family.stopping = True
        driver = self._driver
        if driver is None or self._closing:
            return
        self._timers.append(self._loop.call_later(STOP_GRACE, self._settle_without_agent))
        if driver is not asyncio.current_task():  # who stops itself is about to raise
            driver.cancel()

    def pause(self) -> None:
        """Give the run back before its next step; one that goes on comes to its end. Repeatable."""
        self._stepper.pausing = True

    def perform(self, key: str, call: Call) -> Coroutine[Any, Any, Any]:
        """Perform a step that is no agent's own; from within the agent that is executed."""
        return self._stepper.perform(key, call)

    def hold(self) -> None:
        """Let the deadline end nothing until it is set again. Repeatable."""
        if self._timer is not None:
            self._timer.cancel()

    def set(self) -> None:
        """Let the run end at its deadline, as the meter has it."""
        self.hold()
        if not self._transcript.closed:
            self._timer = self._loop.call_later(self._meter.seconds, self._deadline_passed)

    async def _driven(self) -> None:
        """Call the agent and keep what comes of it."""
        try:
            arguments = self._agent.accept(self._invocation.payload)
            await self.restarts.begin(self._stepper)
            if self.restarts.path:
                self._root = Scope(self._family, self.restarts.path)
            here.set(self._root)
            self._session.begin()
            self._value = await self._agent.fn(self._run, *arguments)
        except BaseException as error:  # noqa: BLE001 -- nothing an agent raises may reach the event loop
            self._error = error
        if not self._finished.done():
            self._pipeline.ending = True
            self._finished.set_result(None)

    def _agent_done(self, driver: "asyncio.Task[None]") -> None:
        if not self._finished.done():  # cancelled before it began
            self._error = self.stopped or asyncio.CancelledError()
            self._finished.set_result(None)
        if not driver.cancelled():
            driver.exception()

    def _settle_without_agent(self) -> None:
        """Go on to the end though the agent's code does not let go; what it does from now on is refused."""
        if not self._finished.done():
            self._transcript.closed = True
            self._error = self.stopped
            self._finished.set_result(None)

    def _deadline_passed(self) -> None:
        self.stop(BudgetExhausted(Dimension.DEADLINE))

    def _refused(self, refused: Refused) -> None:
        self._refusal = Failure(refused.reason, storable(refused.message, LONGEST_MESSAGE))
        if refused.reason in LOST_REASONS:
            self._still_held = refused.reason == STILL_HELD
            self.stop(LeaseLost(refused.message))
            return
        stopped: RunStopped = CommitRefused(refused.reason, refused.message)
        if refused.reason == "BUDGET_EXCEEDED":
            stopped = BudgetExhausted(self._meter.reached())
        if self._closing and self.stopped is None:
            self.stopped = stopped
        self.stop(stopped)

    async def _close(self) -> Left:
        """Commit how it ended.

        A refused end is tried again with nothing in it but what was told; if that is refused too, the attempt
        has failed, and so it counts.
        """
        self._closing = True
        await self._reap()
        if isinstance(self.stopped, BudgetExhausted) and self._value is None:
            await self._last_words()
            await self._reap()
        self._transcript.closed = True
        self._transcript.all_spoken()
        self._reached("before_end")
        lost = self._stepper.lost()
        if lost.tokens:
            self._pipeline.draft.charge(lost)
        for last_resort in (False, False, True):
            if isinstance(self.stopped, LeaseLost):
                return self._lost()
            move = self._refused_move() if last_resort else self._decided()
            try:
                ended = await self._commit(move, bare=last_resort)
            except asyncio.CancelledError:
                if not self._pipeline.stuck:
                    raise  # it is this task that was cancelled
                continue
            if ended is not None:
                self._journal.happened(ended)
            self.failure = move.failure
            return Left.REQUEUED if move.outcome is None else Left.ENDED
        return self._lost() if isinstance(self.stopped, LeaseLost) else Left.REFUSED

    def _lost(self) -> Left:
        return Left.REFUSED if self._still_held else Left.LOST

    async def _commit(self, move: Move, *, bare: bool) -> Event | None:
        """Commit the last move; return the last event, which nobody is told before it is durable."""
        ended: list[Event] = []

        def finish(draft: Draft) -> None:
            if move.parked is not None:
                draft.park((*self.restarts.keys, *move.parked.keys), move.parked.seconds)
                return
            if move.compensate is not None:
                draft.compensate(move.compensate)
                return
            if move.outcome is None:
                draft.requeue(move.failure, move.delay, blameless=move.blameless)
                return
            draft.end(move.outcome, move.session)
            ended.append(self._pen.ended(draft, move.outcome, self._meter.spent, self._meter.elapsed))

        try:
            await self._pipeline.close(finish, survived=move.survived, bare=bare)
        except asyncio.CancelledError:
            if ended:
                self._pen.unsay()
            raise
        return ended[0] if ended else None

    async def _reap(self) -> None:
        """End the tasks the agent has left behind."""
        left = [task for task in self._family.tasks if task is not self._driver]
        for task in left:
            task.cancel()
        if left:
            done, _ = await asyncio.wait(left, timeout=STOP_GRACE)
            for task in done:
                if not task.cancelled():
                    task.exception()  # nobody else asks for it

    async def _last_words(self) -> None:
        """Let the agent shape what it managed so far; it may say and send, but start no step."""
        stopped, shape = self.stopped, self._agent.on_exhausted
        assert isinstance(stopped, BudgetExhausted)
        if shape is None:
            return
        here.set(self._root)
        try:
            async with asyncio.timeout(LAST_WORDS):
                value = shape(self._run, stopped.dimension)
                self._value = await value if inspect.isawaitable(value) else value
        except (Exception, RunStopped) as error:  # noqa: BLE001 -- the run ends PARTIAL all the same
            self._error = error
        finally:
            here.set(None)

    def _decided(self) -> Move:
        if self._ends is not None:
            return self._ends(self.stopped, self._error)
        move = decide(
            self._agent,
            self._invocation,
            self.stopped,
            value=self._value,
            error=self._error,
            session=self._session,
        )
        return undone_first(move, self.undos)

    def _refused_move(self) -> Move:
        return Move(failure=self._refusal, delay=pause(self._invocation.attempt))
