"""The Invoker as a run's children know it, in memory: it finds them by their keys and tells how they end."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

from holdfast.agent import Permanent, Usage
from holdfast.v1.invoker_service_pb2 import InvokeRequest, InvokeResponse
from tests.agent.memory import Memory


class Brood:
    """The children of one run in memory; what they are lent is kept with the run, as the ledger does."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        memory.children = self
        self.asked: list[InvokeRequest] = []
        """One for each child, in the order in which they were started."""
        self.ids: dict[str, str] = {}
        self.calls = 0
        self.cancelled: list[tuple[str, str]] = []
        self.refusal: Permanent | None = None
        self.started: Callable[[], None] = lambda: None
        """Called when a child is durable and its starter does not know yet."""

    async def invoke(self, asked: InvokeRequest) -> InvokeResponse:
        """Start a child, or find it."""
        self.calls += 1
        await asyncio.sleep(0)
        if self.refusal is not None:
            raise self.refusal
        key = asked.idempotency_key
        found = key in self.ids
        if not found:
            self.ids[key] = str(uuid.uuid4())
            self.asked.append(InvokeRequest.FromString(asked.SerializeToString()))
            self._lend(asked, 1)
            self.started()
        place = list(self.ids).index(key)
        answer = InvokeResponse(reattached=found, parent_epoch=self.asked[place].parent.epoch)
        answer.run.run_id = self.ids[key]
        answer.run.budget.CopyFrom(self.asked[place].budget)
        return answer

    async def cancel(self, tenant: str, run_id: str, reason: str) -> None:
        """Note that a child is to stop."""
        assert tenant == "default"
        self.cancelled.append((run_id, reason))

    def end(
        self, place: int, result: Any = None, status: str = "SUCCEEDED", *, lost: bool = False, **more: Any
    ) -> None:
        """Let a child end: settle what it was lent, and tell it."""
        asked = self.asked[place]
        run_id = self.ids[asked.idempotency_key]
        usage = more.pop("usage", Usage())
        self._lend(asked, -1)
        self.memory.returned.steps += usage.steps
        self.memory.returned.tools += usage.tools
        self.memory.returned.tokens += usage.tokens
        budget = asked.budget
        letter = {
            "run_id": run_id,
            "status": status,
            "result": result,
            "failure": None,
            "exhausted": None,
            "returned": {
                "steps": budget.max_steps,
                "tools": budget.max_tools,
                "tokens": budget.max_tokens,
            },
            "charged": {"steps": usage.steps, "tools": usage.tools, "tokens": usage.tokens},
            "usage": {"steps": usage.steps, "tools": usage.tools, "tokens": usage.tokens, "context": 0},
        }
        self.memory.signal(letter | more, f"child:{run_id}", lost=lost)

    def _lend(self, asked: InvokeRequest, sign: int) -> None:
        lent = self.memory.lent
        lent.steps += sign * asked.budget.max_steps
        lent.tools += sign * asked.budget.max_tools
        lent.tokens += sign * asked.budget.max_tokens
