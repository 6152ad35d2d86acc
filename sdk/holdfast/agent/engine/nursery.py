"""Children as steps: started by one, awaited by another, and lent to out of the run's own budget.

asked ──(set aside)──▶ Invoker ──(lent)──▶ recorded ──▶ … ──(its end is a signal)──▶ settled, received
                          └──(refused)──▶ given back

The ledger lends; what the runner sets aside keeps the run's own steps from spending it meanwhile. A new lease
begins with what is lent by then, so only what was started or has ended under this one is counted here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast.agent.budget import Limits, Meter, Usage
from holdfast.agent.child import POLICIES, Child, Children
from holdfast.agent.codec import Shape, plain
from holdfast.agent.engine.call import Call
from holdfast.agent.engine.mailbox import Mailbox, Signal
from holdfast.agent.engine.scope import Frame, Scope
from holdfast.agent.engine.stepper import Stepper
from holdfast.agent.engine.transcript import Transcript
from holdfast.agent.engine.wait import signal_call
from holdfast.agent.engine.waits import Waits
from holdfast.agent.error import Permanent
from holdfast.agent.step import Policy
from holdfast.agent.wire import value
from holdfast.agent.wire.draft import FUNCTION
from holdfast.agent.wire.field import write_budget
from holdfast.agent.wire.invocation import Invocation
from holdfast.v1.invoker_service_pb2 import InvokeRequest

KEY: Final = "child:"
"""What the mailbox keys begin with under which children's ends are told; the run's id follows."""
SHARE: Final = 16
"""Where an agent says nothing a child gets one part in so many of what is left."""
END: Final = "#end"
"""What the key of a child's end adds to that of its start: no step of an author's has it."""

ANYTHING: Final = Shape(Any)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A child, as its parent asks for it; limits at 0 take a share of what is left."""

    intent: str
    payload: dict[str, Any]
    budget: Limits = field(default_factory=Limits)
    on_parent_end: str = "cancel"
    labels: Mapping[str, str] = field(default_factory=dict)
    ordering_key: str = ""
    returns: Shape = ANYTHING

    @classmethod
    def of(
        cls,
        intent: str,
        payload: Any,
        *,
        budget: Limits | None = None,
        on_parent_end: str = "cancel",
        labels: Mapping[str, str] | None = None,
        ordering_key: str = "",
        returns: Any = Any,
    ) -> "Wanted":
        """Check what an agent asks for. Raises ValueError, and `NotRecordable` for what is no JSON."""
        given = plain({} if payload is None else payload)
        if not isinstance(given, dict):
            raise ValueError(f"A child's payload has fields; {type(payload).__name__} has none.")  # noqa: TRY004
        if on_parent_end not in POLICIES:
            raise ValueError(f"A child is to 'cancel' or to 'continue', not to {on_parent_end!r}.")
        limits = budget or Limits()
        if min(limits.deadline, limits.steps, limits.tools, limits.tokens, limits.context) < 0:
            raise ValueError(f"No limit of a child is below 0: {limits}.")
        return cls(intent, given, limits, on_parent_end, dict(labels or {}), ordering_key, Shape(returns))

    @property
    def asked(self) -> dict[str, Any]:
        """What a replay must ask for, too."""
        return {"intent": self.intent, "payload": self.payload, "on_parent_end": self.on_parent_end}


class Nursery:
    """Starts the children of one run, and hears of their ends."""

    def __init__(
        self,
        *,
        invocation: Invocation,
        children: Children,
        mailbox: Mailbox,
        waits: Waits,
        meter: Meter,
        transcript: Transcript,
    ) -> None:
        self._invocation = invocation
        self._children = children
        self._mailbox = mailbox
        self._waits = waits
        self._meter = meter
        self._transcript = transcript
        mailbox.listen(self._heard)

    def start(self, name: str, wanted: Wanted, key: str) -> Call:
        """Describe the start of a child under an idempotency key; its outcome is the child's id."""

        async def execute(step: str, _: Frame) -> str:
            return await self._start(step, wanted, key)

        def told(frame: Frame, encoded: bytes) -> None:
            self._transcript.child_spawned(frame.step, json.loads(encoded), wanted.intent)

        return Call(
            name=name,
            kind=FUNCTION,
            input=wanted.asked,
            policy=Policy(),
            result=Shape(str),
            execute=execute,
            tells_result=told,
        )

    async def spawned(self, stepper: Stepper, scope: Scope, step: str, start: Call, wanted: Wanted) -> Child:
        """Start a child as the step of that key, and return it; its end has a key made of that one."""
        run_id: str = await stepper.perform(step, start)

        async def ended() -> Any:
            scope.passed(step.rpartition("/")[2] + END)
            return (await stepper.perform(step + END, self.end(run_id)))[1]

        async def cancel(reason: str) -> None:
            stop = self.cancel(run_id, reason)
            await stepper.perform(stepper.scope().key(stop.name), stop)

        return Child(run_id, wanted.intent, wanted.returns, ended, cancel)

    def end(self, run_id: str) -> Call:
        """Describe the wait for a child's end."""
        call = signal_call(
            self._mailbox, self._waits, f"{KEY}{run_id}", name="child", asked={"child": run_id}
        )

        def told(frame: Frame, _: bytes) -> None:
            assert frame.received is not None  # the wait has no end of its own
            self._transcript.child_ended(frame.step, run_id, json.loads(frame.received.payload)["status"])

        call.tells_result = told
        return call

    def cancel(self, run_id: str, reason: str) -> Call:
        """Describe asking a child to stop."""

        async def execute(*_: object) -> None:
            await self._children.cancel(self._invocation.tenant, run_id, reason)

        return Call(
            name="cancel",
            kind=FUNCTION,
            input={"child": run_id, "reason": reason},
            policy=Policy(),
            result=Shape(None),
            execute=execute,
        )

    async def _start(self, step: str, wanted: Wanted, key: str) -> str:
        limits = self._limits(wanted.budget)
        aside = Usage(limits.steps, limits.tools, limits.tokens)
        self._meter.lend(aside)
        try:
            answer = await self._children.invoke(self._request(step, wanted, key, limits))
        except Exception:
            self._meter.lend(_negative(aside))
            raise  # nothing was lent
        self._meter.lend(_negative(aside))
        if answer.parent_epoch == self._invocation.epoch:
            lent = answer.run.budget
            self._meter.lend(Usage(lent.max_steps, lent.max_tools, lent.max_tokens))
        return answer.run.run_id

    def _limits(self, asked: Limits) -> Limits:
        """Return what to ask of the ledger, which knows nothing of what calls in flight have set aside."""
        left = {"steps": self._meter.steps, "tools": self._meter.tools, "tokens": self._meter.tokens}
        given = {}
        for name, most in left.items():
            given[name] = getattr(asked, name) or max(1, most // SHARE)
            if given[name] > most:
                raise Permanent(f"the run has {most} of its {name} left to lend", reason="BUDGET_EXCEEDED")
        return Limits(asked.deadline, context=asked.context, **given)

    def _request(self, step: str, wanted: Wanted, key: str, limits: Limits) -> InvokeRequest:
        here = self._invocation
        request = InvokeRequest(
            intent=wanted.intent,
            idempotency_key=key,
            correlation_id=here.correlation_id,
            labels=dict(wanted.labels),
            ordering_key=wanted.ordering_key,
        )
        request.caller.tenant = here.tenant
        request.caller.user = here.user
        request.payload.SetInParent()
        for name, member in wanted.payload.items():
            value.write(request.payload.fields[name], member)
        write_budget(request.budget, limits)
        request.parent.run_id = here.run_id
        request.parent.epoch = here.epoch
        request.parent.step = step[:200]
        request.parent.on_parent_end = POLICIES[wanted.on_parent_end]
        return request

    def _heard(self, signal: Signal) -> None:
        """Settle what a child was lent, when its end comes under this lease; it may never be awaited."""
        if not signal.key.startswith(KEY) or signal.sequence <= self._invocation.mail_last:
            return
        letter = json.loads(signal.payload)
        returned, spent = letter["returned"], letter["charged"]
        self._meter.lend(Usage(-returned["steps"], -returned["tools"], -returned["tokens"]))
        self._meter.charge(Usage(spent["steps"], spent["tools"], spent["tokens"]))


def _negative(usage: Usage) -> Usage:
    return Usage(-usage.steps, -usage.tools, -usage.tokens)
