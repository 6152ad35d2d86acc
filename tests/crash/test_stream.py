"""Whatever is killed under it, and however its reader comes, goes and dawdles, a stream is the transcript."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from holdfast.client import Client, Event, Rewound, Started, Watch
from holdfast.client.conversation import Conversation
from holdfast.client.wire_run import event_of
from holdfast.invoker.view import note_event
from holdfast.v1.transcript_pb2 import EventBatch
from tests.crash.havoc import ROUNDS, say
from tests.crash.load import INTENT
from tests.crash.world import PATIENCE_S, World, client_of

VICTIMS = ("invoker", "invoker", "runner", "runner-2", "runner", "checkpoint")
READERS = 5
RUNS = 3


class Reader:
    """A client that holds a run's transcript; what it reads may break, and it may leave and come back."""

    def __init__(self, seed: int, client: Client, run_id: str) -> None:
        self.run_id = run_id
        self.events: list[Event] = []
        self.rewound = 0
        self.lost = 0
        self._random = random.Random(seed)
        self._client = client

    async def read(self) -> list[Event]:
        """Read until the run has ended, over as many streams as chance wants."""
        while not (self.events and self.events[-1].kind == "ended"):
            stays = self._random.randrange(2, 40)
            async with self._stream() as stream:
                async for update in stream:
                    self._apply(update)
                    stays -= 1
                    if self._random.random() < 0.2:  # dawdle, and let others run on
                        await asyncio.sleep(self._random.uniform(0, 0.05))
                    if not stays and self._random.random() < 0.7:
                        break  # and come back with the cursor
        return self.events

    def _stream(self) -> Watch | Conversation:
        after: dict[str, Any] = {
            "after_sequence": self.events[-1].sequence if self.events else 0,
            "after_epoch": self.events[-1].epoch if self.events else 0,
        }
        if self._random.random() < 0.5:
            return self._client.attach(self.run_id, **after, on_lost=self._note)
        return self._client.watch(self.run_id, **after, on_lost=self._note)

    def _note(self, _: Exception) -> None:
        self.lost += 1

    def _apply(self, update: Any) -> None:
        if isinstance(update, Event):
            assert update.sequence == len(self.events) + 1
            self.events.append(update)
        elif isinstance(update, Rewound):
            del self.events[update.to_sequence :]
            self.rewound += 1
        else:
            assert isinstance(update, Started)


@pytest.mark.timeout(120 + 60 * ROUNDS)
@pytest.mark.parametrize("seed", [11, 12])
async def test_streams_are_the_transcript_whoever_dies_under_them(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    say(f"seed {seed}")
    async with World.opened(tmp_path, invokers=2) as world:
        async with client_of(world.suite, ",".join(world.suite.invoker_addresses)) as client:
            readers: list[Reader] = []

            async def life(number: int) -> None:
                """Let one run after the other be read by several, for as long as things die."""
                while not havoc.done():
                    payload = {"steps": 20, "pause": chance.choice((0.02, 0.05)), "effects": False}
                    key = f"{number}-{len(readers)}"
                    run_id = (await client.invoke(INTENT, payload, idempotency_key=key)).run_id
                    some = [Reader(seed * 1000 + len(readers) + n, client, run_id) for n in range(READERS)]
                    readers.extend(some)
                    async with asyncio.timeout(PATIENCE_S):
                        await asyncio.gather(*(reader.read() for reader in some))

            havoc = asyncio.create_task(_kill(world, chance, 8 * ROUNDS))
            await asyncio.gather(havoc, *(life(number) for number in range(RUNS)))
        say(f"{len(readers)} readers: {sum(reader.rewound for reader in readers)} times rewound")
        say(f"{sum(reader.lost for reader in readers)} connections lost")
        assert sum(reader.lost for reader in readers)
        for reader in readers:
            assert reader.events == [event async for event in committed(world, reader.run_id)]


async def _kill(world: World, chance: random.Random, kills: int) -> None:
    for _ in range(kills):
        await asyncio.sleep(chance.uniform(0.1, 0.6))  # the moment is the point
        victim = world.suite.processes[chance.choice(VICTIMS)]
        say(f"kill {victim.name}")
        await victim.kill()
        await victim.start()


async def committed(world: World, run_id: str) -> AsyncIterator[Event]:
    """Yield a transcript as the ledger has it."""
    async with world.ledger() as db, db.connection() as connection:
        rows = await connection.fetch(
            "SELECT first_sequence, events, note FROM transcript WHERE run_id = $1 ORDER BY first_sequence",
            UUID(run_id),
        )
    for row in rows:
        if row["events"] is None:
            yield event_of(note_event(run_id, row["first_sequence"], json.loads(row["note"])))
        else:
            for event in EventBatch.FromString(row["events"]).events:
                yield event_of(event)
