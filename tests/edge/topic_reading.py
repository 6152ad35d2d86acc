"""Reading a topic in this process, and what has come of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from holdfast.edge.declaration import sources_of
from holdfast.edge.intake import Intake
from holdfast.edge.kafka_source import KafkaReader
from holdfast.edge.settings import EdgeSettings
from holdfast.edge.source import KafkaSource
from holdfast.kit.secret import Secrets
from tests.invoker.stand import Invoker
from tests.kit.until import until
from tests.support.kafka_server import Topic


def bodies(first: int, count: int, **more: Any) -> list[bytes]:
    return [json.dumps({"n": n, **more}).encode() for n in range(first, first + count)]


@asynccontextmanager
async def reading(
    door: Invoker, topic: Topic, secrets: Path | None = None, **declared: Any
) -> AsyncIterator[KafkaReader]:
    """Read the topic in this process."""
    table = {
        "servers": [topic.server.address],
        "topic": topic.name,
        "group": topic.group,
        "intent": "hook",
        "session_timeout": 6,
    } | declared
    (source,) = sources_of({"kafka": {"orders": table}})
    assert isinstance(source, KafkaSource)
    known = Secrets({}, secrets)
    told = EdgeSettings(invoker_address=door.address, accept_timeout=3.0)
    intake, stop = Intake(told, known), asyncio.Event()
    reader = KafkaReader(source, intake, known)
    running = asyncio.create_task(reader.run(stop))
    try:
        yield reader
    finally:
        stop.set()
        await asyncio.wait_for(running, 60)
        await intake.close()


async def column(door: Invoker, query: str) -> list[Any]:
    async with door.parts.db.connection() as connection:
        return [row[0] for row in await connection.fetch(query)]


async def payloads(door: Invoker) -> list[dict[str, Any]]:
    """Return what the runs are about, in their order."""
    ids = await column(door, "SELECT run_id FROM run ORDER BY seq")
    return [dict((await door.run(str(one))).payload) for one in ids]


async def numbers(door: Invoker) -> list[int]:
    return [int(one["n"]) for one in await payloads(door)]


async def runs(door: Invoker, wanted: int, deadline: float = 60) -> None:
    async def there() -> bool:
        return int((await column(door, "SELECT count(*) FROM run"))[0]) >= wanted

    await until(there, deadline=deadline)


async def set_aside(door: Invoker, wanted: int = 1) -> None:
    async def there() -> bool:
        return len(await column(door, "SELECT 1 FROM run_inbox_refused")) >= wanted

    await until(there, deadline=60)


async def committed(topic: Topic, total: int) -> None:
    """Wait until the group has committed so many messages in all."""

    async def done() -> bool:
        return sum((await topic.committed()).values()) >= total

    await until(done, deadline=60)
