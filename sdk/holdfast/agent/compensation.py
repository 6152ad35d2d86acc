"""Undoes the steps of a run that does not come to a good end: the newest first, each recorded as a step.

the agent is called with the records (`rerun`) ──▶ every step to be undone is found again, with what it was
given ──▶ its undo is executed and recorded ──▶ COMPENSATED, FAILED naming what could not be undone, or
DRIFTED if today's code does not ask for a step that is to be undone

It begins like this after every crash; what is undone already has a record, and is passed over.
"""

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final, Unpack

from holdfast.agent.app import Agent
from holdfast.agent.backoff import pause
from holdfast.agent.budget import Limits, Usage
from holdfast.agent.codec import Shape
from holdfast.agent.ending import Move, failed
from holdfast.agent.engine.call import Call
from holdfast.agent.engine.journal import Journal
from holdfast.agent.engine.key import stable_key
from holdfast.agent.engine.scope import Frame
from holdfast.agent.error import (
    LONGEST_MESSAGE,
    BudgetExhausted,
    CommitRefused,
    Drifted,
    Failure,
    HandedBack,
    Permanent,
    RunStopped,
    failure_of,
    storable,
)
from holdfast.agent.execution import Execution, Parts
from holdfast.agent.model_ladder import Models
from holdfast.agent.rerun import Rerun
from holdfast.agent.run import Run
from holdfast.agent.session import Kind
from holdfast.agent.step import IDEMPOTENCY_KEY
from holdfast.agent.undo import UNDO_KEY, Undoable
from holdfast.agent.wire.draft import COMPENSATED, DRIFTED, FUNCTION, Outcome
from holdfast.agent.wire.invocation import UNLIMITED, History, Invocation

PATIENCE: Final = 30.0
"""Seconds that the agent's code between steps has to come to the steps that are to be undone."""


async def execution_of(
    agent: Agent, invocation: Invocation, history: History, journal: Journal, **parts: Unpack[Parts]
) -> Execution:
    """Return what executes a leased run: its agent, or what undoes its steps if that is its turn."""
    if invocation.compensating is None:
        return Execution(agent, invocation, history, journal, **parts)
    compensation = Compensation(agent, invocation, history, invocation.compensating)
    await compensation.find(parts["models"])
    return compensation.execution(journal, **parts)


class Compensation:
    """The undoing of one run under one lease."""

    def __init__(self, agent: Agent, invocation: Invocation, history: History, cause: Failure) -> None:
        self._agent = agent
        self._invocation = invocation
        self._history = history
        self._cause = cause
        self._left = [key for key in reversed(history.undoable) if not history.has(UNDO_KEY + key)]
        self._count = len(history.undoable)
        self._found: dict[str, Undoable] = {}
        self._failed: list[Failure] = []
        self._missing: BaseException | None = None
        self._execution: Execution | None = None

    async def find(self, models: Callable[[], Models]) -> None:
        """Call the agent again, to find what the steps to be undone were given."""
        if not self._left:
            return
        unlimited = Limits(PATIENCE, UNLIMITED, UNLIMITED, UNLIMITED, UNLIMITED)
        before = replace(
            self._invocation,
            limits=unlimited,
            remaining=PATIENCE,
            spent=Usage(),
            lent=Usage(),
            handoff=None,
            compensating=None,
        )
        rerun = Rerun(self._history)
        await rerun.go(self._agent, before, models)
        self._found = rerun.used
        lost = [key for key in self._left if key not in self._found]
        if not lost:
            return
        self._missing = rerun.stopped
        if isinstance(rerun.stopped, BudgetExhausted):
            self._missing = TimeoutError(f"The code between the steps takes longer than {PATIENCE:g} s.")
        elif not isinstance(rerun.stopped, Drifted):
            message = f"step {lost[0]} is to be undone, and is not asked for any more"
            self._missing = Drifted(lost[0], message)

    def execution(self, journal: Journal, **parts: Unpack[Parts]) -> Execution:
        """Return what undoes what was found."""

        async def undo(run: Run) -> None:
            await self._undo(run)

        agent = replace(
            self._agent,
            fn=undo,
            takes_payload=False,
            result=Shape(None),
            on_exhausted=None,
            session=Kind(dict),
            durations=None,
            degrade=(),
            on_input="enqueue",
        )
        invocation = replace(self._invocation, handoff=None)
        execution = Execution(agent, invocation, self._history, journal, ends=self._ends, **parts)
        self._execution = execution
        return execution

    async def _undo(self, run: Run) -> None:
        if self._missing is not None:
            raise self._missing
        assert self._execution is not None  # it is what calls this
        for key in tuple(self._left):
            try:
                await self._execution.perform(UNDO_KEY + key, self._call(run, key))
            except Permanent as error:
                self._failed.append(replace(failure_of(error), step=key))
            else:
                self._left.remove(key)

    def _call(self, run: Run, key: str) -> Call:
        found, run_id = self._found[key], self._invocation.run_id
        undo = found.step.undo
        assert undo is not None  # or else it were not undoable
        given = found.step.undo_input(found.named, found.result, stable_key(run_id, key), run)

        def execute(own: str, _: Frame) -> Coroutine[Any, Any, Any]:
            if undo.wants_key:
                return undo.fn(**given, **{IDEMPOTENCY_KEY: stable_key(run_id, own)})
            return undo.fn(**given)

        return Call(
            name=undo.name,
            kind=FUNCTION,
            input={name: each for name, each in given.items() if name != "run" or "run" in found.named},
            policy=undo.policy,
            result=undo.result,
            execute=execute,
            undoes=True,
        )

    def _ends(self, stopped: RunStopped | None, error: BaseException | None) -> Move:
        """Decide where the run goes."""
        why = stopped or error
        if why is None:
            return self._end()
        if isinstance(why, HandedBack):
            return Move(blameless=True)
        if isinstance(why, Drifted):
            failure = Failure("DRIFTED", storable(str(why), LONGEST_MESSAGE), why.step)
            return failed(failure, DRIFTED)
        if isinstance(why, BudgetExhausted | CommitRefused):
            return failed(self._incomplete(str(why)))
        return Move(failure=failure_of(why), delay=pause(self._invocation.attempt))

    def _end(self) -> Move:
        if not self._failed:
            return Move(Outcome(COMPENSATED, failure=self._cause))
        told = "; ".join(f"{each.step}: {each.reason}: {each.message}" for each in self._failed)
        return failed(self._incomplete(told))

    def _incomplete(self, why: str) -> Failure:
        """Name what could not be undone, and why the run was to be undone at all."""
        left, first = ", ".join(self._left), self._left[0] if self._left else ""
        message = (
            f"{len(self._left)} of {self._count} steps are not undone: {left} ({why}). "
            f"The run was to end by {self._cause.reason}: {self._cause.message}"
        )
        return Failure("COMPENSATION_FAILED", storable(message, LONGEST_MESSAGE), first)
