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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Final

from holdfast.agent.app import App
from holdfast.agent.budget import Limits
from holdfast.agent.engine.journal import Answer, Committed
from holdfast.agent.error import BudgetExhausted, Drifted, RunStopped
from holdfast.agent.execution import Execution
from holdfast.agent.wire import value
from holdfast.agent.wire.draft import SUCCEEDED, Commit, Event, Record
from holdfast.agent.wire.invocation import EPOCH, UNLIMITED, History, Invocation, Recorded
from holdfast.v1.checkpoint_service_pb2 import LoadRunResponse

PATIENCE: Final = 10.0
"""Seconds that the code between steps has by default."""
QUIET: Final = 0.05
"""Seconds without another step asked for after which a replay that has come beyond the records is over."""
_TURNS: Final = 20
"""Turns of a busy loop that count as quiet, too: what is ready has gone on by then."""


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


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the agent reads of its run beside the payload: what steps are asked with may come from it."""

    run_id: str = str(uuid.UUID(int=0))
    tenant: str = "default"
    user: str = ""
    correlation_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    create_time: datetime = EPOCH


_NOBODY: Final = Envelope()


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


class _Asked(History):
    """A history that knows what was asked for."""

    def __init__(self, pages: Iterable[LoadRunResponse]) -> None:
        super().__init__(pages)
        self._asked: set[str] = set()

    @property
    def asked(self) -> int:
        """How many steps were asked for."""
        return len(self._asked)

    @property
    def leftover(self) -> tuple[str, ...]:
        """The steps begun or recorded that nobody has asked for."""
        return tuple(key for key in self.keys() if key not in self._asked)

    def take(self, key: str) -> Recorded | None:
        """Return a step's record, once."""
        self._asked.add(key)
        return super().take(key)


class _Frontier:
    """Holds every branch that asks for a step beyond the records, until the others have come to rest.

    They may still ask for recorded steps, and drift: what is ahead in one branch says nothing of them.
    """

    def __init__(self, history: _Asked) -> None:
        self._history = history
        self._reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.first = ""

    async def hold(self, key: str) -> None:
        """Hold a branch for good."""
        self.first = self.first or key
        if not self._reached.done():
            self._reached.set_result(None)
        await asyncio.get_running_loop().create_future()

    async def settled(self) -> None:
        """Return once a branch is held and the others ask for nothing more."""
        await self._reached
        asked = -1
        while asked != self._history.asked:
            asked = self._history.asked
            await asyncio.sleep(QUIET)
            for _ in range(_TURNS):
                await asyncio.sleep(0)


async def replay(
    app: App,
    intent: str,
    payload: Mapping[str, Any],
    records: Sequence[Record | bytes],
    *,
    emitted: Mapping[str, int] | None = None,
    envelope: Envelope = _NOBODY,
    status: int = 0,
    result: Any = None,
    patience: float = PATIENCE,
) -> Replayed:
    """Run the agent of an intent against what a run has recorded, and say what it does.

    Records may be serialized. `emitted` are the counts committed with the records; without them a run that
    passed a patch is taken for one that did not. `status` is how the run has ended, 0 for one in flight; one
    that has SUCCEEDED must come to its `result` again. Code between steps has `patience` seconds. What the
    run found in its session is not recorded: the code finds an empty one, and a budget without limits.
    Raises ValueError for an intent that the app does not serve.
    """
    agent = app.agents.get(intent)
    if agent is None:
        raise ValueError(f"The app {app.name} has no agent for {intent}.")
    steps = [each if isinstance(each, Record) else Record.FromString(each) for each in records]
    history = _Asked([LoadRunResponse(steps=steps, emitted=dict(emitted or {}))])
    past = _Past()
    frontier = _Frontier(history)
    invocation = Invocation(
        run_id=envelope.run_id,
        intent=intent,
        payload=dict(payload),
        tenant=envelope.tenant,
        user=envelope.user,
        correlation_id=envelope.correlation_id,
        labels=dict(envelope.labels),
        create_time=envelope.create_time,
        limits=Limits(patience, UNLIMITED, UNLIMITED, UNLIMITED, UNLIMITED),
        remaining=patience,
    )
    execution = Execution(agent, invocation, history, past, models=app.models, unrecorded=frontier.hold)
    running = asyncio.ensure_future(execution.run())
    settled = asyncio.ensure_future(frontier.settled())
    try:
        await asyncio.wait([running, settled], return_when=asyncio.FIRST_COMPLETED)
        execution.stop(_Beyond())  # changes nothing where it has ended
        await running
    finally:
        for each in (running, settled):
            each.cancel()
    leftover = history.leftover
    stopped = execution.stopped
    if isinstance(stopped, Drifted):
        return Replayed(Verdict.DRIFTED, stopped.step, str(stopped), leftover)
    if isinstance(stopped, BudgetExhausted):  # only of time: nothing else has a limit here
        message = f"the code between the steps takes longer than {patience:g} s"
        return Replayed(Verdict.FAILS, message=message, leftover=leftover)
    if isinstance(stopped, _Beyond):
        beyond = frontier.first
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
