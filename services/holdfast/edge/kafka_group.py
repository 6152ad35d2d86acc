"""A member of a consumer group, which reads the partitions that the group gives it.

    given ──▶ read ──▶ committed up to what is durable ──▶ …
               │  ──(not now)──▶ paused, then read again from the first that was not taken
               └──(taken away)─▶ what is in hand is finished and committed first

A partition without a committed place is committed where it begins before it is read. A place that Kafka no
longer has (messages removed, a topic made anew) is left for the partition's beginning.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from holdfast.edge.kafka_log import say_seldom
from holdfast.edge.kafka_login import login_of
from holdfast.edge.source import KafkaSource
from holdfast.kit.secret import Secrets
from holdfast.kit.telemetry.logs import logger

_log: Final = logger("kafka")

_WAIT_S: Final = 1.0
"""How long is waited for a first message."""
_ANSWER_S: Final = 10.0
_CLOSE_S: Final = 5.0
_DEAF_S: Final = 30.0
"""How long Kafka may say nothing before all is opened anew: its brokers may have other addresses by then."""
_REBALANCE_S: Final = 60.0
"""How long a rebalance waits for members that have a batch in hand."""
_METADATA_AGE_S: Final = 30.0
"""How soon partitions that are added are seen."""
_PAUSE_S: Final = 1.0
_SILENT: Final = "Kafka does not answer."


class GroupBrokenError(Exception):
    """The broker or the topic is not as it must be: all is opened anew, later."""


class Group(ConsumerRebalanceListener):  # type: ignore[misc] # the library has no types
    """Our place in the group; whoever has messages in hand holds `busy`, and ends soon if it `is_leaving`."""

    def __init__(self, source: KafkaSource, consumer: AIOKafkaConsumer) -> None:
        self.busy = asyncio.Lock()
        self.is_leaving = False
        self._source = source
        self._consumer = consumer
        self._resumed: dict[TopicPartition, float] = {}
        self._heard = time.monotonic()
        self._polled = 0
        self._closing: asyncio.Future[None] | None = None

    async def some(self) -> list[ConsumerRecord]:
        """Return up to a batch of messages, in order by partition; none if none came within a moment.

        Raises errors of Kafka and `GroupBrokenError`.
        """
        wait = self._resume()
        try:
            async with asyncio.timeout(wait + _WAIT_S):  # longer only while partitions are being given out
                found = await self._consumer.getmany(
                    timeout_ms=int(wait * 1000), max_records=self._source.batch
                )
        except TimeoutError:
            found = {}
        except NoOffsetForPartitionError as error:
            await self._begin(error.args[0])
            return []
        except OffsetOutOfRangeError as error:
            for partition, offset in error.args[0].items():
                _log.warning(
                    "messages are gone", source=self._source.of.name, partition=str(partition), at=offset
                )
                await self._begin(partition, anew=True)
            return []
        if found:
            self._heard = time.monotonic()  # what was fetched together may take long to be handled
        else:
            await self._listen()
        return [record for records in found.values() for record in records]

    def again(self, partition: TopicPartition, offset: int, after: float) -> None:
        """Read a partition from a message on again, after so many seconds."""
        if partition in self._consumer.assignment():
            self._consumer.seek(partition, offset)
            self._consumer.pause(partition)
            self._resumed[partition] = time.monotonic() + after

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit what is to be read next. What is no longer ours stays as it is.

        Raises errors of Kafka and `GroupBrokenError`.
        """
        if not offsets:
            return
        try:
            async with _answered():
                await self._consumer.commit(dict(offsets))
        except (CommitFailedError, IllegalStateError):
            # Another member has these partitions: it reads the messages again, and finds their runs.
            _log.info("not committed: the group has changed", source=self._source.of.name)

    async def close(self) -> None:
        """Leave the group; repeatable. A broker that does not answer is waited for for a moment only."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._consumer.stop())
        await asyncio.wait({self._closing}, timeout=_CLOSE_S)

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Let what is in hand be finished before others may have it."""
        self.is_leaving = True
        async with self.busy:
            self._resumed.clear()
        if revoked:
            _log.info("partitions given back", source=self._source.of.name, count=len(revoked))

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Read what is given."""
        self.is_leaving = False
        self._heard = time.monotonic()
        _log.info(
            "reading",
            source=self._source.of.name,
            topic=self._source.topic,
            group=self._source.group,
            partitions=sorted(one.partition for one in assigned),
        )

    def _resume(self) -> float:
        """Read on where it is time; return how long to wait for messages meanwhile."""
        now = time.monotonic()
        for partition in [one for one, at in self._resumed.items() if at <= now]:
            del self._resumed[partition]
            if partition in self._consumer.assignment():
                self._consumer.resume(partition)
                self._heard = now
        return min([_WAIT_S, *(at - now for at in self._resumed.values())])

    async def _begin(self, partition: TopicPartition, *, anew: bool = False) -> None:
        """Read a partition from where it begins for us, and remember that."""
        if partition not in self._consumer.assignment():
            return
        async with _answered():
            offset = None if anew else await self._consumer.committed(partition)
            if offset is None:
                first = anew or self._source.deliver == "all"
                ends = self._consumer.beginning_offsets if first else self._consumer.end_offsets
                offset = (await ends([partition]))[partition]
                await self.commit({partition: offset})
        if partition in self._consumer.assignment():
            self._consumer.seek(partition, offset)

    async def _listen(self) -> None:
        """See whether Kafka still answers. Raises errors of Kafka and `GroupBrokenError`."""
        reading = [one for one in self._consumer.assignment() if one not in self._resumed]
        polled = max((self._consumer.last_poll_timestamp(one) or 0 for one in reading), default=0)
        if polled > self._polled:
            self._polled, self._heard = polled, time.monotonic()
        if time.monotonic() - self._heard < _DEAF_S:
            return
        if reading:
            raise GroupBrokenError(_SILENT)
        async with _answered():
            await _find(self._source.topic, self._consumer)
        self._heard = time.monotonic()


async def open_group(source: KafkaSource, secrets: Secrets) -> Group:
    """Join the group. Raises errors of Kafka, `GroupBrokenError` and `SecretMissingError`."""
    say_seldom()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=list(source.servers),
        client_id=f"holdfast-edge-{source.of.name}",
        group_id=source.group,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        session_timeout_ms=int(source.session_timeout * 1000),
        heartbeat_interval_ms=int(source.session_timeout * 300),
        rebalance_timeout_ms=int(_REBALANCE_S * 1000),
        request_timeout_ms=int((_REBALANCE_S + _ANSWER_S) * 1000),  # joining waits for a rebalance
        metadata_max_age_ms=int(_METADATA_AGE_S * 1000),
        retry_backoff_ms=int(_PAUSE_S * 1000),
        **login_of(source, secrets),
    )
    group = Group(source, consumer)
    try:
        async with _answered():
            await consumer.start()
            await _find(source.topic, consumer)
        consumer.subscribe([source.topic], listener=group)
    except BaseException:
        await group.close()
        raise
    return group


async def _find(topic: str, consumer: AIOKafkaConsumer) -> None:
    """Look whether the topic is there for us; asking for it by its name might make it."""
    if topic not in await consumer.topics():
        raise GroupBrokenError(f"Kafka shows no topic {topic!r}.")


@asynccontextmanager
async def _answered() -> AsyncIterator[None]:
    """Bound how long Kafka may take, which tries for any time by itself. Raises `GroupBrokenError`."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            yield
    except TimeoutError as error:
        raise GroupBrokenError(_SILENT) from error
