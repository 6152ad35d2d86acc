"""Runs today's code against the records of a run, and executes no step.

recorded steps asked for ──▶ returned ──┬─(the agent returns)──▶ MATCHES, or CHANGED if it ended otherwise
                                        ├─(a step beyond)─────▶ GOES_ON, or CHANGED if the run had ended
                                        ├─(asked otherwise)───▶ DRIFTED
                                        └─(the code raises)───▶ FAILS, or MATCHES if the run had failed, too

No model, tool or function of a step is called, and nothing is sent. Code between steps does run: what it
does to the world it does.
"""

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from holdfast.agent.app import App
from holdfast.agent.budget import Limits
from holdfast.agent.engine.journal import Answer, Committed
from holdfast.agent.error import Drifted, RunStopped
from holdfast.agent.execution import Execution
from holdfast.agent.wire import value
from holdfast.agent.wire.draft import SUCCEEDED, Commit, Event, Record
from holdfast.agent.wire.invocation import UNLIMITED, History, Invocation
from holdfast.v1.checkpoint_service_pb2 import LoadRunResponse

PATIENCE: Final = 10.0
"""Seconds that the code between steps has by default."""


class Verdict(Enum):
    """What today's code does with a recorded run."""

    MATCHES = "it comes to the recorded end"
    GOES_ON = "it replays all that is recorded, and would go on from there"
    CHANGED = "it replays, and ends otherwise than was recorded"
    DRIFTED = "it asks a recorded step otherwise"
    FAILS = "the code fails where it had not"

    @property
    def is_fine(self) -> bool:
        """Whether the code can take the run over."""
        return self in (Verdict.MATCHES, Verdict.GOES_ON)


@dataclass(frozen=True, slots=True)
class Replayed:
    """The verdict on one run. `step` is where it was found; `leftover` are records nobody asked for."""

    verdict: Verdict
    step: str = ""
    message: str = ""
    leftover: tuple[str, ...] = ()


class _Beyond(RunStopped):
    """The agent asks for a step that is not recorded: here the replay ends."""


class _Past:
    """A journal that keeps nothing but how the run ends, and which step was asked for last."""

    def __init__(self) -> None:
        self.last: Commit | None = None
        self.asked = ""

    def commit(self, commit: Commit, answered: Callable[[Answer], None]) -> None:
        """Take a commit as durable."""
        self.last = Commit.FromString(commit.SerializeToString())
        asyncio.get_running_loop().call_soon(answered, Committed())

    def happened(self, event: Event) -> None:
        """Note the step that is about to be tried; tell nobody."""
        if event.HasField("step_started"):
            self.asked = event.step_started.key


async def replay(
    app: App,
    intent: str,
    payload: Mapping[str, Any],
    records: Sequence[Record],
    *,
    emitted: Mapping[str, int] | None = None,
    run_id: str = "",
    status: int = 0,
    result: Any = None,
    patience: float = PATIENCE,
) -> Replayed:
    """Run the agent of an intent against what a run has recorded, and say what it does.

    `emitted` are the counts committed with the records; without them a run that passed a patch is taken for
    one that did not. `status` is how the run has ended, 0 for one in flight; one that has SUCCEEDED must come
    to its `result` again. Code between steps has `patience` seconds. Raises ValueError for an intent that
    the app does not serve.
    """
    agent = app.agents.get(intent)
    if agent is None:
        raise ValueError(f"The app {app.name} has no agent for {intent}.")
    history = History([LoadRunResponse(steps=records, emitted=dict(emitted or {}))])
    past = _Past()
    beyond = ""

    def reached(place: str) -> None:
        nonlocal beyond
        if place in {"before_prepare", "before_step"}:
            beyond = beyond or past.asked
            stopped = _Beyond()
            execution.stop(stopped)
            raise stopped

    invocation = Invocation(
        run_id=run_id or str(uuid.UUID(int=0)),
        intent=intent,
        payload=dict(payload),
        limits=Limits(patience, UNLIMITED, UNLIMITED, UNLIMITED, UNLIMITED),
        remaining=patience,
    )
    execution = Execution(agent, invocation, history, past, models=app.models, reached=reached)
    await execution.run()
    leftover = history.keys()
    stopped = execution.stopped
    if isinstance(stopped, Drifted):
        return Replayed(Verdict.DRIFTED, stopped.step, str(stopped), leftover)
    if isinstance(stopped, _Beyond):
        if status != SUCCEEDED:
            return Replayed(Verdict.GOES_ON, beyond, leftover=leftover)
        message = f"the run had ended; now step {beyond} is asked, which is not recorded"
        return Replayed(Verdict.CHANGED, beyond, message, leftover)
    return _ended(past.last, status, result, leftover)


def _ended(last: Commit | None, status: int, result: Any, leftover: tuple[str, ...]) -> Replayed:
    """Hold the end of a replay against what was recorded."""
    if last is None or not last.HasField("end") or last.end.status != SUCCEEDED:
        if status not in (0, SUCCEEDED):
            return Replayed(Verdict.MATCHES, leftover=leftover)
        move = None if last is None else last.end if last.HasField("end") else last.requeue
        message = "it comes to no end" if move is None else f"{move.failure.reason}: {move.failure.message}"
        return Replayed(Verdict.FAILS, message=message, leftover=leftover)
    found = value.read(last.end.result)
    if status == SUCCEEDED and found != result:
        message = f"it ended with {result!r} and now ends with {found!r}"
        return Replayed(Verdict.CHANGED, message=message, leftover=leftover)
    return Replayed(Verdict.MATCHES, leftover=leftover)
