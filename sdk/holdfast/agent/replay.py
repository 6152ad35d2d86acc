"""Runs today's code against the records of a run, and executes no step.

recorded steps asked for ──▶ returned ──┬─(the agent returns)──▶ MATCHES, or CHANGED if it ended otherwise
                                        ├─(a step beyond)─────▶ GOES_ON, or CHANGED if the run had ended
                                        ├─(asked otherwise)───▶ DRIFTED
                                        └─(the code raises)───▶ FAILS, or MATCHES if the run had failed, too

No model, tool or function of a step is called, and nothing is sent. Code between steps does run: what it
does to the world it does.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Final

from holdfast.agent.app import App
from holdfast.agent.budget import Limits
from holdfast.agent.error import BudgetExhausted, Drifted
from holdfast.agent.rerun import Beyond, Rerun
from holdfast.agent.undo import UNDO_KEY
from holdfast.agent.wire import value
from holdfast.agent.wire.draft import SUCCEEDED, Commit, Record
from holdfast.agent.wire.invocation import EPOCH, UNLIMITED, History, Invocation
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
    passed a patch is taken for one that did not. `status` is how the run has ended: 0 for one in flight,
    COMPENSATED for one whose steps are being undone; one that has SUCCEEDED must come to its `result` again.
    Code between steps has `patience` seconds. What the run found in its session is not recorded: the code
    finds an empty one, and a budget without limits. Raises ValueError for an intent that the app does not
    serve.
    """
    agent = app.agents.get(intent)
    if agent is None:
        raise ValueError(f"The app {app.name} has no agent for {intent}.")
    steps = [each if isinstance(each, Record) else Record.FromString(each) for each in records]
    rerun = Rerun(History([LoadRunResponse(steps=steps, emitted=dict(emitted or {}))]))
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
    await rerun.go(agent, invocation, app.models)
    leftover = tuple(key for key in rerun.history.leftover(rerun.path) if not key.startswith(UNDO_KEY))
    stopped = rerun.stopped
    if isinstance(stopped, Drifted):
        return Replayed(Verdict.DRIFTED, stopped.step, str(stopped), leftover)
    if isinstance(stopped, BudgetExhausted):  # only of time: nothing else has a limit here
        message = f"the code between the steps takes longer than {patience:g} s"
        return Replayed(Verdict.FAILS, message=message, leftover=leftover)
    if isinstance(stopped, Beyond):
        beyond = rerun.first
        if status != SUCCEEDED:
            return Replayed(Verdict.GOES_ON, beyond, leftover=leftover)
        message = f"the run had ended; now step {beyond} is asked, which is not recorded"
        return Replayed(Verdict.CHANGED, beyond, message, leftover)
    return _ended(rerun.last, status, result, leftover)


def _ended(last: Commit | None, status: int, result: Any, leftover: tuple[str, ...]) -> Replayed:
    """Hold the end of a replay against what was recorded."""
    if last is None or not last.HasField("end") or last.end.status != SUCCEEDED:
        if status not in (0, SUCCEEDED):
            return Replayed(Verdict.MATCHES, leftover=leftover)
        message = "it comes to no end" if last is None else _why(last)
        return Replayed(Verdict.FAILS, message=message, leftover=leftover)
    found = value.read(last.end.result)
    if status == SUCCEEDED and found != result:
        message = f"it ended with {result!r} and now ends with {found!r}"
        return Replayed(Verdict.CHANGED, message=message, leftover=leftover)
    return Replayed(Verdict.MATCHES, leftover=leftover)


def _why(last: Commit) -> str:
    """Say with which failure a run would end, be undone or tried again."""
    moves = {"end": last.end.failure, "compensate": last.compensate.cause, "requeue": last.requeue.failure}
    failure = moves.get(last.WhichOneof("move") or "requeue", last.requeue.failure)
    return f"{failure.reason}: {failure.message}"
