"""Messages of a topic of Kafka become runs; a partition's offset is committed up to what is durable.

    read ──▶ a run, a known one, or aside ──▶ committed, if all before it in its partition are
      ├──(not now)───────▶ its partition is paused, and read again from there
      └──(we are killed)─▶ another member reads it again, and it is known by its key

Edges of one group share the partitions. A message that cannot become a run is set aside and holds nobody
up; so is one at which the Invoker fails `max_deliver` times.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from holdfast.client.errors import InvalidField
from holdfast.edge import cloud_event
from holdfast.edge.fault import Malformed, NotNow
from holdfast.edge.intake import Broken, Fate, Intake, Letter
from holdfast.edge.kafka_group import Group, GroupBrokenError, open_group
from holdfast.edge.letter import letter_of
from holdfast.edge.order import take_in_order
from holdfast.edge.patience import Patience
from holdfast.edge.plain import parsed
from holdfast.edge.received import Received
from holdfast.edge.source import KafkaSource
from holdfast.kit.loops import Loop
from holdfast.kit.secret import SecretMissingError, Secrets
from holdfast.kit.telemetry.logs import logger

_log: Final = logger("kafka")

# Kafka, its topic or a secret is not there: that passes, or is the operator's to mend.
_PASSING: Final = (KafkaError, OSError, TimeoutError, GroupBrokenError, SecretMissingError)


class KafkaReader:
    """Reads one source until told to stop; Kafka may be away for any time."""

    def __init__(self, source: KafkaSource, intake: Intake, secrets: Secrets) -> None:
        self._source = source
        self._intake = intake
        self._secrets = secrets
        self._group: Group | None = None
        self._patience = Patience(source.of.name, _log)
        self._failed: dict[tuple[TopicPartition, int], int] = {}
        self.loop = Loop(f"kafka {source.of.name}", self.run_once, interval=0.01)

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop`."""
        try:
            await self.loop.run(stop)
        finally:
            await self._close()

    async def run_once(self) -> int:
        """Take what there is, waiting a moment for the first of it; return how many were done with."""
        if await self._patience.waited():
            return 0
        try:
            if self._group is None:
                self._group = await open_group(self._source, self._secrets)
                self._patience.opened()
            group = self._group
            records = await group.some()
            if not records:
                return 0
            async with group.busy:
                return await self._handle(records, group)
        except _PASSING as error:
            await self._close()
            self._patience.failed(error)
            return 0
        except BaseException:
            await self._close()
            raise

    async def _handle(self, records: Sequence[ConsumerRecord], group: Group) -> int:
        letters = [_letter(record, self._source) for record in records]
        take = partial(self._intake.take, self._source.of)
        fates = await take_in_order(letters, take, lambda: group.is_leaving)
        upto: dict[TopicPartition, int] = {}
        held: set[TopicPartition] = set()
        done = 0
        for record, letter, fate in zip(records, letters, fates, strict=True):
            partition = TopicPartition(record.topic, record.partition)
            after = await self._settle((partition, record.offset), letter, fate)
            if partition in held:
                continue
            if after is None:
                upto[partition] = record.offset + 1
                done += 1
            else:
                held.add(partition)
                group.again(partition, record.offset, after)
        self._failed = {place: n for place, n in self._failed.items() if place[1] >= upto.get(place[0], 0)}
        await group.commit(upto)
        return done

    async def _settle(self, place: tuple[TopicPartition, int], letter: Letter, fate: Fate) -> float | None:
        """Return after how many seconds a message is to be read again; None if it is done with."""
        if not isinstance(fate, NotNow):
            return None
        if not isinstance(fate, Broken):
            return fate.after
        tries = self._failed[place] = self._failed.get(place, 0) + 1
        if tries < self._source.max_deliver:
            return fate.after
        why = InvalidField(f"The Invoker failed at it {tries} times.")
        (fate,) = await self._intake.set_aside(self._source.of, [Letter(letter.invocation, letter.body, why)])
        return fate.after if isinstance(fate, NotNow) else None

    async def _close(self) -> None:
        group, self._group = self._group, None
        self._failed.clear()
        if group is not None:
            await group.close()


def _letter(record: ConsumerRecord, source: KafkaSource) -> Letter:
    # The time is part of it, for a topic made anew counts from the beginning.
    own = f"{record.topic}/{record.partition}/{record.offset}@{record.timestamp}"
    body: bytes = record.value or b""
    read = partial(_received, record, body, own, cloud_events=source.of.format == "cloudevents")
    return letter_of(read, own, body, source.of)


def _received(record: ConsumerRecord, body: bytes, own: str, *, cloud_events: bool) -> Received:
    """Read a message; `own` stands for it unless it is a CloudEvent. Raises `Malformed`."""
    headers = {name.lower(): _text(value) for name, value in record.headers if value is not None}
    if cloud_events:
        events = cloud_event.events_of(headers, body, prefix="ce_")
        if len(events) != 1:
            raise Malformed("A message is one event.", "body")
        (event,) = events
    else:
        event = Received(headers, parsed(body), own_key=own)
    return replace(
        event,
        subject=record.topic,
        key=_text(record.key or b""),
        partition=f"{record.topic}/{record.partition}",
    )


def _text(value: bytes) -> str:
    r"""Return a header or a key as text; NUL and what is no UTF-8 come as `\x00`, `\xff`: keys differ."""
    return value.decode("utf-8", "backslashreplace").replace("\0", "\\x00")
