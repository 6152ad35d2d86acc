"""What callers do while pods are replaced under them, and what each of them must not notice."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from holdfast.client import Budget, Client, Event, HoldfastError, Invocation, Rewound, RunUnsuccessful, Shape

TURNS: Final = 5
"""Of a conversation that ends by itself."""

PATIENCE_S: Final = 60.0
_BUDGET: Final = Budget(deadline_ms=900_000, max_steps=100_000)


@dataclass(frozen=True)
class Told:
    """What a caller was told, and when."""

    caller: str
    error: Exception
    time: str = field(default_factory=lambda: time.strftime("%H:%M:%S"))


@dataclass
class Load:
    """Callers of every kind, each again and again; `impatient` is a client that repeats nothing."""

    client: Client
    impatient: Client
    boss: Client
    done: "Counter[str]" = field(default_factory=Counter)
    failed: list[Told] = field(default_factory=list)
    """What any caller was told that it should not have been."""
    refused: list[Told] = field(default_factory=list)
    """What one was told who repeats nothing."""
    rejoined: list[Told] = field(default_factory=list)
    """Why a stream broke before its client joined it again."""
    effects: set[str] = field(default_factory=set)
    """The keys of which the outside is to be told."""
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    _numbers: "Counter[str]" = field(default_factory=Counter)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Keep everybody calling for the block; after it wait for what has begun."""
        callers = [self._invoke, self._invoke, self._publish, self._decide, self._look, self._talk]
        callers += [self._talk_on] * 3
        async with asyncio.TaskGroup() as calling:
            for number, call in enumerate(callers):
                calling.create_task(self._again(call, number))
            try:
                yield
            finally:
                self._over.set()

    async def _again(self, call: Callable[[str], Awaitable[None]], number: int) -> None:
        kind = call.__name__.strip("_")
        while not self._over.is_set():
            self._numbers[kind] += 1
            try:
                await call(f"{kind}-{number}-{self._numbers[kind]}")
                self.done[kind] += 1
                await asyncio.sleep(0.05)
            except (HoldfastError, RunUnsuccessful, TimeoutError, AssertionError) as error:
                self.failed.append(Told(kind, error))
                await asyncio.sleep(1.0)

    async def _invoke(self, key: str) -> None:
        """Invoke and wait for the result in one call."""
        self.effects.add(key)
        handle = await self.client.invoke("work", {"key": key, "steps": 4}, idempotency_key=key, wait=30)
        assert await handle.result(patience=PATIENCE_S) == 14

    async def _talk(self, key: str) -> None:
        """Talk for a while."""
        await self._converse(key, lambda asked: asked == TURNS)

    async def _talk_on(self, key: str) -> None:
        """Talk until all is over."""
        await self._converse(key, lambda _: self._over.is_set())

    async def _converse(self, key: str, enough: Callable[[int], bool]) -> None:
        """Wait for every answer before the next question, and hold the whole as it was said."""
        held: list[Event] = []
        asked = 0
        leaving = False
        async with self.client.converse(
            Invocation("talk", idempotency_key=key, budget=_BUDGET), on_lost=self._lost
        ) as talk:
            async for update in talk:
                if isinstance(update, Rewound):
                    held = [each for each in held if each.sequence <= update.to_sequence]
                elif isinstance(update, Event):
                    assert update.sequence == (held[-1].sequence if held else 0) + 1
                    held.append(update)
                if asked > sum(each.kind == "said" for each in held) or leaving:
                    continue
                leaving = enough(asked)
                await talk.input("goodbye" if leaving else asked, signal_id=f"{key}-{asked}")
                asked += not leaving
            assert talk.run is not None
            run = await self.client.get_run(talk.run.run_id)
        assert run.outcome is not None
        assert run.outcome.result == asked
        said = [each.text for each in held if each.kind == "said"]
        assert said == [f"{number}: {number**2}" for number in range(asked)]
        told = "".join(each.text for each in held if each.kind == "token")
        assert told == "the square is " * asked

    async def _publish(self, key: str) -> None:
        """Publish two events twice, as who heard no answer does, and see that each became one run."""
        keys = [f"{key}-{which}" for which in "ab"]
        self.effects |= set(keys)
        events = [
            Invocation("work", {"key": each, "steps": 2}, idempotency_key=each, shape=Shape.WORKER)
            for each in keys
        ]
        first = await self.client.publish(events)
        again = await self.client.publish(events)
        assert [each.refusal for each in (*first, *again)] == [None] * 4
        assert [each.run_id for each in first] == [each.run_id for each in again]
        assert all(each.duplicate for each in again)
        for each in first:
            run = await self.client.await_run(each.run_id, patience=PATIENCE_S)
            assert run.outcome is not None
            assert run.outcome.result == 1

    async def _decide(self, key: str) -> None:
        """Start a run that asks, have somebody else decide, and see it go on."""
        handle = await self.client.invoke("ask", idempotency_key=key)
        approvals = self.boss.approvals()
        async with approvals.watch(run_id=handle.run_id, on_lost=self._lost) as inbox:
            async for gate in inbox:
                await approvals.approve(gate.approval_id)
                break
        assert await handle.result(patience=PATIENCE_S) == "approved"

    async def _look(self, _key: str) -> None:
        """Ask each service something short; of those with two pods, take the first answer."""
        try:
            runs, _token = await self.impatient.page_of_runs(page_size=1)
            for run in runs:
                await self.impatient.past(run.run_id)
        except HoldfastError as error:
            self.refused.append(Told("look", error))
        async for _ in self.client.approvals().list(page_size=1):
            break
        async for _ in self.client.outbox.list_destinations():
            break

    def _lost(self, error: HoldfastError) -> None:
        self.rejoined.append(Told("stream", error))
