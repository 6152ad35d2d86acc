"""Runs today's code against the records of a run, and executes no step.

recorded steps asked for ──▶ returned ──┬─(the agent returns)──▶ MATCHES, or CHANGED if it ended otherwise
                                        ├─(a step beyond)─────▶ GOES_ON, or CHANGED if the run had ended
                                        ├─(asked otherwise)───▶ DRIFTED
                                        └─(the code raises)───▶ FAILS, or MATCHES if the run had not succeeded

No model, tool or function of a step is called, and nothing is sent. Code between steps does run: what it does to
the world it does.
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
    """A journal that keeps nothing but how the run ends."""

    def __init__(self) -> None:
        self.last: Commit | None = None

    def commit(self, commit: Commit, answered: Callable[[Answer], None]) -> None:
        """Take a commit as durable."""
        self.last = Commit.FromString(commit.SerializeToString())
        asyncio.get_running_loop().call_soon(answered, Committed())

    def happened(self, event: Event) -> None:
        """Tell nobody."""


async def replay(
    app: App,
    intent: str,
    payload: Mapping[str, Any],
    records: Sequence[Record],
    *,
    emitted: Mapping[str, int] | None = None,
    run_id: str = "",
    result: Any = None,
    succeeded: bool = False,
    patience: float = PATIENCE,
) -> Replayed:
    """Run the agent of an intent against what a run has recorded, and say what it does.

    `emitted` are the counts committed with the records; without them a run that passed a patch is taken for one
    that did not. A run that has `succeeded` with `result` must come to it again. Raises ValueError for an intent
    that the app does not serve.
    """
    agent = app.agents.get(intent)
    if agent is None:
        raise ValueError(f"The app {app.name} has no agent for {intent}.")
    history = History([LoadRunResponse(steps=records, emitted=dict(emitted or {}))])
    past, beyond = _Past(), ""
    execution: Execution

    def reached(place: str) -> None:
        nonlocal beyond
        if place == "before_step":
            beyond = beyond or execution.asked
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
        if succeeded:
            message = f"the recorded run had ended; now step {beyond} is asked, which is not recorded"
            return Replayed(Verdict.CHANGED, beyond, message, leftover)
        return Replayed(Verdict.GOES_ON, beyond, leftover=leftover)
    last = past.last
    if last is None or last.WhichOneof("move") != "end" or last.end.status != SUCCEEDED:
        failure = None if last is None else last.end.failure if last.HasField("end") else last.requeue.failure
        message = "it has no end" if failure is None else f"{failure.reason}: {failure.message}"
        return Replayed(Verdict.FAILS if succeeded else Verdict.MATCHES, "", message, leftover)
    if succeeded:
        expected = LoadRunResponse()
        del expected
        found = _plain(last)
        if found != result:
            return Replayed(Verdict.CHANGED, "", f"it ended with {result!r} and now ends with {found!r}", leftover)
    return Replayed(Verdict.MATCHES, leftover=leftover)
