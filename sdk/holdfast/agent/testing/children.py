"""The Invoker of a lab: it runs children beside their parents, on the same clock, and tells how they end.

asked ──(parent held, budget lent)──▶ a run of its own ──▶ ended ──▶ its loans pass to who lent to it ──▶ its
loan is settled ──▶ its parent is sent its outcome ──▶ its children that go with it are asked to stop

As `ledger/spawn.py` and `ledger/child_end.py` do, and each in one moment of the lab's time.
"""

import asyncio
import contextvars
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast.agent.app import App
from holdfast.agent.budget import Dimension, Limits, Usage
from holdfast.agent.error import Permanent
from holdfast.agent.testing.ledger import RUN_ID, Ledger
from holdfast.agent.testing.scene import AMPLE, Conditions, Kill, Scene
from holdfast.agent.testing.stage import Performance, Stage
from holdfast.agent.wire import value
from holdfast.agent.wire.field import write_budget
from holdfast.v1.invoker_service_pb2 import InvokeRequest, InvokeResponse
from holdfast.v1.run_pb2 import OnParentEnd, RunStatus

CHILDREN: Final = uuid.UUID("b7a6e1d0-1c52-4d0f-8a43-6f5b0e9d2c17")
"""The namespace of children's ids: the same key has the same child in every run of a lab."""
DEEPEST: Final = 16
"""How many runs may stand above a child."""
MOST: Final = 1000
"""Children that one run may start in its life."""
WHY: Final = "The run that started it has ended."


@dataclass(slots=True, eq=False)
class _Member:
    """A run of the lab, and whose child it is."""

    stage: Stage
    scene: Scene
    asked: InvokeRequest = field(default_factory=InvokeRequest)
    above: "_Member | None" = None
    lender: "_Member | None" = None
    """Who gets back what it was lent: its parent, or who lent to that once it has ended."""
    limits: Limits = AMPLE
    children: "list[_Member]" = field(default_factory=list)

    @property
    def depth(self) -> int:
        return 0 if self.above is None else self.above.depth + 1

    @property
    def goes_on(self) -> bool:
        return self.asked.parent.on_parent_end == OnParentEnd.ON_PARENT_END_CONTINUE

    def performance(self) -> Performance:
        return self.stage.performance(child.performance() for child in self.children)


class LabChildren:
    """Runs a scene with all that comes of it; one for each lab's run."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._members: dict[str, _Member] = {}
        self._keys: dict[str, _Member] = {}
        self._lanes: dict[str, list[_Member]] = {}
        self._group = asyncio.TaskGroup()
        # Nothing of the agent's that starts a child or ends may be left in the context of other runs.
        self._outside = contextvars.copy_context()

    async def play(self, scene: Scene, kills: Iterable[Kill]) -> Performance:
        """Run a scene, and all children of it, until the last has ended."""
        stage = self._stage(scene, RUN_ID, kills)
        root = self._members[RUN_ID] = _Member(stage, scene)
        try:
            async with self._group:
                await stage.play()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # what is wrong with one run is what the test is to see
        return root.performance()

    async def invoke(self, asked: InvokeRequest) -> InvokeResponse:
        """Start a child, or find it. Raises `Permanent` for what the Invoker refuses."""
        await asyncio.sleep(0)
        if asked.intent not in self._app.agents:
            raise Permanent(
                f"No runner has ever served the intent {asked.intent!r}.", reason="UNKNOWN_INTENT"
            )
        above, epoch = self._members[asked.parent.run_id], asked.parent.epoch
        if not above.stage.holds(epoch):
            raise Permanent(f"The lease of epoch {epoch} has ended; start nothing more.", reason="FENCED")
        found = self._keys.get(asked.idempotency_key)
        child = self._start(asked, above) if found is None else _same(found, asked, above)
        answer = InvokeResponse(reattached=found is not None, parent_epoch=child.asked.parent.epoch)
        answer.run.run_id = child.stage.ledger.run_id
        write_budget(answer.run.budget, child.limits)
        return answer

    async def cancel(self, tenant: str, run_id: str, reason: str) -> None:  # noqa: ARG002 -- a lab has one tenant
        """Ask a child to stop. Raises `Permanent` where there is none."""
        await asyncio.sleep(0)
        if run_id not in self._members:
            raise Permanent("There is no such run.", reason="RUN_NOT_FOUND")
        self._outside.copy().run(self._members[run_id].stage.cancel, reason)

    def _start(self, asked: InvokeRequest, above: _Member) -> _Member:
        key, lane = asked.idempotency_key, asked.ordering_key
        _admit(asked, above)
        limits = above.stage.ledger.account.lend(_wanted(asked, above.stage.ledger))
        scene = _scene(asked, above.scene, limits)
        run_id = str(uuid.uuid5(CHILDREN, key))
        stage = self._stage(scene, run_id)
        kept = InvokeRequest.FromString(asked.SerializeToString())
        child = _Member(stage, scene, kept, above=above, lender=above, limits=limits)
        self._members[run_id] = self._keys[key] = child
        above.children.append(child)
        if lane:
            self._lanes.setdefault(lane, []).append(child)
            stage.ledger.queue(behind=self._lanes[lane][0] is not child)
        self._outside.copy().run(self._group.create_task, stage.play())
        return child

    def _stage(self, scene: Scene, run_id: str, kills: Iterable[Kill] = ()) -> Stage:
        def outside(do: Callable[[str], None]) -> Callable[[], None]:
            return lambda: self._outside.copy().run(do, run_id)

        told = {"on_orphans": outside(self._stop), "on_end": outside(self._ended)}
        return Stage(self._app, scene, children=self, run_id=run_id, kills=kills, **told)

    def _stop(self, run_id: str) -> None:
        """Ask the children to stop that go with a run."""
        for child in self._members[run_id].children:
            if not child.goes_on and not child.stage.ended:
                child.stage.orphaned = True
                child.stage.cancel(WHY)

    def _ended(self, run_id: str) -> None:
        """Do what a run's end means for those above, beside and below it."""
        member = self._members[run_id]
        if member.above is not None:
            self._settle(member, member.above)
        self._stop(run_id)
        lane = self._lanes.get(member.asked.ordering_key, [])
        if member in lane:
            lane.remove(member)
            for first in lane[:1]:
                first.stage.ledger.queue(behind=False)

    def _settle(self, member: _Member, above: _Member) -> None:
        """Give back what a child was lent, charge what it has spent, and tell its parent."""
        ledger, lender, loan = member.stage.ledger, member.lender, member.limits
        assert lender is not None  # who has a parent was lent to
        still = ledger.account.pass_on()
        for each in self._members.values():
            if each.lender is member:
                each.lender = lender
        returned = Usage(loan.steps - still.steps, loan.tools - still.tools, loan.tokens - still.tokens)
        spent = ledger.spent
        spent.steps = min(spent.steps, returned.steps)  # what it has undone goes beyond, and is nobody's
        lender.stage.ledger.account.settle(returned, spent)
        key = f"child:{ledger.run_id}"
        above.stage.send(_letter(ledger, returned, spent), key, signal_id=key)


def _admit(asked: InvokeRequest, above: _Member) -> None:
    """Raise `Permanent` for a child that no budget can help."""
    if above.depth >= DEEPEST:
        message = f"{DEEPEST} runs stand above this one: it can have no children."
        raise Permanent(message, reason="TOO_MANY_CHILDREN")
    if len(above.children) >= MOST:
        message = f"The run has started {MOST} children, which are the most."
        raise Permanent(message, reason="TOO_MANY_CHILDREN")
    if asked.ordering_key and asked.ordering_key == above.asked.ordering_key:
        raise Permanent("A child cannot wait for its parent to end.", reason="INVALID_FIELD")


def _same(found: _Member, asked: InvokeRequest, above: _Member) -> _Member:
    """Return the child that a key stands for, if it is this parent's and this call's."""
    if found.above is not above:
        raise Permanent("The key is another run's.", reason="INVALID_FIELD")
    if (found.asked.intent, found.asked.payload) != (asked.intent, asked.payload):
        message = "The idempotency key stands for another request."
        raise Permanent(message, reason="IDEMPOTENCY_KEY_REUSED")
    return found


def _wanted(asked: InvokeRequest, above: Ledger) -> Limits:
    """Return what a child asks for, with its deadline: no later than its parent's, unless it goes on."""
    budget = asked.budget
    deadline = budget.deadline_ms / 1000 or AMPLE.deadline
    if asked.parent.on_parent_end != OnParentEnd.ON_PARENT_END_CONTINUE:
        left = above.deadline - asyncio.get_running_loop().time()
        deadline = max(0.001, min(deadline, left))
    return Limits(deadline, budget.max_steps, budget.max_tools, budget.max_tokens, budget.max_context)


def _scene(asked: InvokeRequest, above: Scene, limits: Limits) -> Scene:
    """Return the conditions under which a child runs; what is said of the children of its own goes before."""
    conditions: Conditions = above.children.get(asked.intent, {})
    own: dict[str, Any] = {**conditions, "children": {**above.children, **conditions.get("children", {})}}
    return Scene(
        asked.intent,
        value.read_struct(asked.payload),
        limits=limits,
        labels=dict(asked.labels),
        user=asked.caller.user,
        **own,
    )


def _letter(ledger: Ledger, returned: Usage, charged: Usage) -> dict[str, Any]:
    """Write what a parent is told."""
    outcome, usage = ledger.outcome, _amounts(ledger.spent)
    assert outcome is not None  # it has ended
    failure = outcome.failure
    return {
        "run_id": ledger.run_id,
        "status": RunStatus.Name(outcome.status).removeprefix("RUN_STATUS_"),
        "result": value.read(outcome.result) if outcome.HasField("result") else None,
        "failure": {
            "reason": failure.reason,
            "message": failure.message,
            "step": failure.step,
            "attempts": failure.attempts,
        }
        if outcome.HasField("failure")
        else None,
        "exhausted": Dimension(outcome.exhausted).name if outcome.exhausted else None,
        "charged": _amounts(charged),
        "returned": _amounts(returned),
        "usage": {**usage, "context": ledger.spent.context},
    }


def _amounts(usage: Usage) -> dict[str, int]:
    return {"steps": usage.steps, "tools": usage.tools, "tokens": usage.tokens}
