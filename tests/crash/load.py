"""Work for the suite while it is being hurt, and what was promised about it: which runs were acknowledged."""

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from holdfast.client import Client, Event, Invocation, Rewound, Shape
from holdfast.client.errors import DeadlineExceeded, Unavailable
from tests.crash.world import PATIENCE_S, World

INTENT = "crash.work"
LANES = ("", "a", "b", "c")
WATCHED = 4  # every so many runs somebody watches one


@dataclass
class Watched:
    """A transcript as its watcher holds it: applied in order, rewound where the platform said so."""

    run_id: str
    events: list[Event] = field(default_factory=list)
    rewound: int = 0


@dataclass
class Load:
    """Invocations and events, each sent until it is acknowledged, some of them twice."""

    world: World
    seed: int
    payload: dict[str, Any] = field(default_factory=dict)
    acknowledged: dict[str, str] = field(default_factory=dict)
    """The run of each idempotency key."""
    contradicted: list[str] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._watching: list[asyncio.Task[None]] = []

    @property
    def run_ids(self) -> set[str]:
        """The runs acknowledged so far."""
        return set(self.acknowledged.values())

    async def send(self, runs: int, at_once: int = 8) -> None:
        """Send that many, a few at a time, and return when all have ended; `TimeoutError` if one does not."""
        room = asyncio.Semaphore(at_once)

        async def one(number: int) -> None:
            async with room:
                await self._one(number)

        before = len(self.acknowledged)
        async with asyncio.TaskGroup() as sending:
            for number in range(before, before + runs):
                sending.create_task(one(number))

    async def invoke(self) -> str:
        """Invoke one run and do not wait for its end."""
        key = f"{self.seed}-{len(self.acknowledged)}"
        await self._invoke(self.world.client, Invocation(INTENT, self.payload, idempotency_key=key))
        return self.acknowledged[key]

    async def watchers(self) -> None:
        """Wait until those who watch have seen the end."""
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*self._watching)

    async def forsake(self) -> None:
        """Stop watching: the world goes down before the runs have ended."""
        for watching in self._watching:
            watching.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)

    async def _one(self, number: int) -> None:
        key = f"{self.seed}-{number}"
        lane = self.random.choice(LANES)
        invocation = Invocation(
            INTENT,
            {
                "lane": lane,
                "steps": self.random.randint(1, 4),
                "pause": self.random.choice((0.0, 0.01, 0.03)),
                "asks_model": number % 5 == 0,
                **self.payload,
            },
            idempotency_key=key,
            ordering_key=lane and f"{self.seed}-{lane}",
        )
        client = self.random.choice(self.world.clients)
        if self.random.random() < 0.3:
            await asyncio.gather(*(self._publish(each, invocation) for each in self.world.clients))
        else:
            await self._invoke(client, invocation)
        if self.random.random() < 0.2:
            await self._invoke(client, invocation)
        if number % WATCHED == 0:
            run_id = self.acknowledged[key]
            watched = Watched(run_id)
            self.watched.append(watched)
            self._watching.append(asyncio.create_task(watch(client, watched)))
        await self._ended(client, self.acknowledged[key])

    async def _ended(self, client: Client, run_id: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(DeadlineExceeded):
                    await client.await_run(run_id, patience=PATIENCE_S)
                    return

    async def _invoke(self, client: Client, invocation: Invocation) -> None:
        while True:
            try:
                handle = await client.send(invocation)
            except DeadlineExceeded:
                continue  # nobody has said yes or no
            self._acknowledge(invocation.idempotency_key, handle.run_id)
            return

    async def _publish(self, client: Client, invocation: Invocation) -> None:
        event = Invocation(
            invocation.intent,
            invocation.payload,
            idempotency_key=invocation.idempotency_key,
            ordering_key=invocation.ordering_key,
            shape=Shape.WORKER,
        )
        while True:
            try:
                answers = await client.publish([event, event])
            except DeadlineExceeded:
                continue
            refused = [answer.refusal for answer in answers if answer.refusal is not None]
            for answer in answers:
                if answer.refusal is None:
                    self._acknowledge(event.idempotency_key, answer.run_id)
            if not refused:
                return
            if not isinstance(refused[0], Unavailable):
                raise refused[0]

    def _acknowledge(self, key: str, run_id: str) -> None:
        if self.acknowledged.setdefault(key, run_id) != run_id:
            self.contradicted.append(f"{key} is {run_id} and {self.acknowledged[key]}")


async def watch(client: Client, watched: Watched) -> None:
    """Follow a run to its end, applying what comes."""
    async with client.watch(watched.run_id) as updates:
        async for update in updates:
            match update:
                case Event():
                    watched.events.append(update)
                case Rewound():
                    watched.rewound += 1
                    watched.events = [e for e in watched.events if e.sequence <= update.to_sequence]
                case _:
                    raise AssertionError(f"No snapshot was due: {update}")
