"""Executes a chunk of light items at once, and records how all of them ended with one commit.

A chunk is a run: leased, fenced by its epoch, and executed again as a whole if its runner dies before that
commit. Each item has a budget, a deadline and a failure of its own; none takes another with it.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any, Final

from holdfast.agent.app import Agent
from holdfast.agent.budget import Limits, Usage
from holdfast.agent.engine.journal import Answer, Committed, Journal, Refused
from holdfast.agent.engine.observer import NOBODY, Observer
from holdfast.agent.error import LONGEST_MESSAGE, Failure, HandedBack, LeaseLost, RunStopped, storable
from holdfast.agent.execution import LOST_REASONS, STILL_HELD, Execution, Left
from holdfast.agent.light import AGAIN, Ended, Memory, Nowhere
from holdfast.agent.model_ladder import Models
from holdfast.agent.wire.draft import CANCELLED, FAILED, SUCCEEDED, Draft, Outcome
from holdfast.agent.wire.invocation import UNLIMITED, History, Invocation
from holdfast.agent.wire.pen import Pen
from holdfast.payload import Sealing

SUFFIX: Final = "#light"
"""A chunk is a run of the agent's intent with this appended; no caller can name such an intent."""
PAYLOAD: Final = "chunk"
LARGEST: Final = 1536 * 1024
"""Bytes of what a chunk's items returned together; the largest beyond it are left to chunks of their own."""
_NOWHERE: Final = Nowhere()


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a chunk; `run_id` names it to its agent, the same whenever it is tried again."""

    index: int
    run_id: str
    attempt: int
    payload: dict[str, Any]


class Chunk:
    """One chunk on this runner: `run()` it once, `stop()` it from outside at any time."""

    def __init__(
        self,
        agent: Agent,
        invocation: Invocation,
        journal: Journal,
        *,
        models: Callable[[], Models],
        gate: asyncio.Semaphore | None = None,
        reached: Callable[[str], None] = lambda _: None,
        observer: Observer = NOBODY,
        sealing: Sealing | None = None,
    ) -> None:
        """Take what bounds the agent's executions at once on this runner, if it is bounded.

        `observer` watches what is executed for all items; `sealing` opens and seals what is theirs: the chunk
        itself is between the runner and the platform.
        """
        self._sealing = sealing
        self.stopped: RunStopped | None = None
        self._agent = agent
        self._invocation = invocation
        self._journal = journal
        self._models = models
        self._gate = gate
        self._reached = reached
        self._observer = observer
        self._executions: set[Execution] = set()
        self._answer: asyncio.Future[Answer] | None = None

    async def run(self) -> Left:
        """Execute the items and commit how they ended. Never raises for what the agent does."""
        items, limits = read_chunk(self._invocation)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._execute(item, limits)) for item in items]
        if isinstance(self.stopped, LeaseLost):
            return Left.LOST
        self._reached("before_end")
        return await self._record(items, [task.result() for task in tasks])

    def stop(self, stopped: RunStopped) -> None:
        """Stop every item. Repeatable; a lost lease counts even after another cause."""
        lost = isinstance(stopped, LeaseLost)
        if self.stopped is not None and not lost:
            return
        self.stopped = stopped
        for execution in tuple(self._executions):
            execution.stop(stopped)
        if lost and self._answer is not None and not self._answer.done():
            self._answer.set_result(_fenced(stopped))

    @property
    def executing(self) -> int:
        """How many items are being executed now."""
        return len(self._executions)

    def pause(self) -> None:
        """Do nothing: a chunk has no step at which it could be held."""

    async def _execute(self, item: Item, limits: Limits) -> Ended:
        loop = asyncio.get_running_loop()
        async with self._admitted():
            if self.stopped is not None:
                return _unbegun(self.stopped)
            began = loop.time()
            memory = Memory()
            execution = Execution(
                self._agent,
                self._single(item, limits),
                History(),
                memory,
                models=self._models,
                gates=_NOWHERE,
                children=_NOWHERE,
                observer=self._observer,
            )
            self._executions.add(execution)
            try:
                await execution.run()
            finally:
                self._executions.discard(execution)
            ended = memory.ended
            ended.seconds = loop.time() - began
            return ended

    @asynccontextmanager
    async def _admitted(self) -> AsyncIterator[None]:
        if self._gate is None:
            yield
            return
        async with self._gate:
            yield

    def _single(self, item: Item, limits: Limits) -> Invocation:
        return replace(
            self._invocation,
            run_id=item.run_id,
            intent=self._agent.intent,
            payload=item.payload if self._sealing is None else self._sealing.opened_plain(item.payload),
            limits=limits,
            attempt=item.attempt,
            remaining=limits.deadline,
            last_commit=0,
            last_sequence=0,
            spent=Usage(),
            lent=Usage(),
            handoff=None,
            mail_last=0,
        )

    async def _record(self, items: list[Item], ended: list[Ended]) -> Left:
        for each in ended:
            if self._sealing is not None and each.result is not None:
                each.result = self._sealing.sealed_json(each.result.encode()).decode()
        said = [_told(item, each) for item, each in zip(items, ended, strict=True)]
        for at in _beyond(said):
            said[at] = _told(items[at], Ended(AGAIN, usage=ended[at].usage, alone=True))
        spent = Usage(
            tools=sum(each.usage.tools for each in ended),
            tokens=sum(each.usage.tokens for each in ended),
            context=max((each.usage.context for each in ended), default=0),
        )
        answer = await self._commit(Outcome(SUCCEEDED, result=f"[{','.join(said)}]"), spent)
        if isinstance(answer, Refused) and answer.reason not in LOST_REASONS:
            failure = Failure(answer.reason, answer.message)
            answer = await self._commit(Outcome(FAILED, failure=failure), Usage())
        if isinstance(answer, Committed):
            return Left.ENDED
        held = answer.reason == STILL_HELD or answer.reason not in LOST_REASONS
        return Left.REFUSED if held else Left.LOST

    async def _commit(self, outcome: Outcome, spent: Usage) -> Answer:
        if isinstance(self.stopped, LeaseLost):
            return _fenced(self.stopped)
        invocation = self._invocation
        draft = Draft()
        events: list[Any] = []
        pen = Pen(
            invocation.run_id, invocation.epoch, invocation.attempt, invocation.last_sequence, events.append
        )
        pen.started(draft, self._agent.version, 0)
        draft.charge(spent)
        draft.end(outcome, None)
        shown = Outcome(outcome.message.status)  # what items returned is theirs, and need not be told twice
        if outcome.message.HasField("failure"):
            shown.message.failure.CopyFrom(outcome.message.failure)
        events.append(pen.ended(draft, shown, spent, 0.0))
        self._answer = asyncio.get_running_loop().create_future()

        def answered(answer: Answer) -> None:
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(answer)

        number = invocation.last_commit + 1
        self._journal.commit(draft.sealed(invocation.run_id, invocation.epoch, number), answered)
        answer = await self._answer
        if isinstance(answer, Committed):
            for event in events:
                self._journal.happened(event)
        return answer


def read_chunk(invocation: Invocation) -> tuple[list[Item], Limits]:
    """Return the items of a chunk, and the limits that each has for itself."""
    chunk = json.loads(invocation.payload[PAYLOAD])
    deadline_ms, steps, tools, tokens, context = chunk["limits"]
    limits = Limits(
        deadline_ms / 1000 if deadline_ms else invocation.remaining,
        steps or UNLIMITED,
        tools or UNLIMITED,
        tokens or UNLIMITED,
        context or UNLIMITED,
    )
    batch = uuid.UUID(chunk["batch_id"])
    items = [
        Item(each["index"], str(uuid.uuid5(batch, str(each["index"]))), each["attempt"], each["payload"])
        for each in chunk["items"]
    ]
    return items, limits


def _unbegun(stopped: RunStopped) -> Ended:
    """Return how an item ends that was not begun: as asked, or to be executed another time."""
    if isinstance(stopped, HandedBack | LeaseLost):
        return Ended()
    return Ended(CANCELLED, failure=Failure("CANCELLED", storable(str(stopped), LONGEST_MESSAGE)))


def _fenced(lost: RunStopped) -> Refused:
    return Refused("FENCED", str(lost))


def _beyond(said: Sequence[str]) -> list[int]:
    """Return which there is no room for: none but the largest, and never the only one."""
    rising = sorted(range(len(said)), key=lambda at: len(said[at]))
    filled = accumulate(len(said[at]) for at in rising)
    return [at for at, size in zip(rising, filled, strict=True) if size > LARGEST and at != rising[0]]


def _told(item: Item, ended: Ended) -> str:
    """Return what the ledger is told of an item, as JSON in ASCII: as many bytes as characters."""
    usage = ended.usage
    told: dict[str, Any] = {
        "index": item.index,
        "status": ended.status,
        "steps": usage.steps,
        "tools": usage.tools,
        "tokens": usage.tokens,
        "context": usage.context,
        "ms": round(ended.seconds * 1000, 3),
    }
    if ended.result is not None:
        told["result"] = ended.result
    if ended.failure is not None:
        told["failure"] = asdict(ended.failure)
    if ended.exhausted:
        told["exhausted"] = ended.exhausted
    if ended.alone:
        told["alone"] = True
    return json.dumps(told, separators=(",", ":"))
