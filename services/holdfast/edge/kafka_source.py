"""Messages of a topic of Kafka become runs; a partition's offset is committed up to what is durable.

    read ──▶ a run, a known one, or aside ──▶ committed, if all before it in its partition are
      ├──(not now)───────▶ its partition is paused, and read again from there
      └──(we are killed)─▶ another member reads it again, and it is known by its key

Edges of one group share the partitions. A message that cannot become a run is set aside and holds nobody
up; so is one at which the Invoker fails `max_deliver` times.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from holdfast.edge import cloud_event
from holdfast.edge.fault import Malformed
from holdfast.edge.intake import Broken, Intake, Letter
from holdfast.edge.kafka_group import Group, GroupBrokenError, open_group
from holdfast.edge.letter import letter_of
from holdfast.edge.order import take_in_order
from holdfast.edge.plain import parsed
from holdfast.edge.reader import Reader
from holdfast.edge.received import Received
from holdfast.edge.source import KafkaSource
from holdfast.kit.secret import SecretMissingError, Secrets
from holdfast.kit.telemetry.logs import logger

_log: Final = logger("kafka")


class KafkaReader(Reader[Group]):
    """Reads one source until told to stop; Kafka may be away for any time."""

    passing = (KafkaError, OSError, TimeoutError, GroupBrokenError, SecretMissingError)

    def __init__(self, source: KafkaSource, intake: Intake, secrets: Secrets) -> None:
        super().__init__("kafka", source.of, intake, source.max_deliver, _log)
        self._source = source
        self._secrets = secrets
        self._failed: dict[tuple[TopicPartition, int], int] = {}

    async def _open(self) -> Group:
        self._failed.clear()  # what is read may be others' by now
        return await open_group(self._source, self._secrets)

    async def _read(self, held: Group) -> int:
        records = await held.some()
        if not records:
            return 0
        async with held.busy:
            return await self._handle(records, held)

    async def _handle(self, records: Sequence[ConsumerRecord], group: Group) -> int:
        letters = [_letter(record, self._source) for record in records]
        take = partial(self._intake.take, self._of)
        fates = await take_in_order(letters, take, lambda: group.is_leaving)
        upto: dict[TopicPartition, int] = {}
        held: set[TopicPartition] = set()
        done = 0
        for record, letter, fate in zip(records, letters, fates, strict=True):
            partition = TopicPartition(record.topic, record.partition)
            place = (partition, record.offset)
            tries = self._failed.get(place, 0) + isinstance(fate, Broken)
            if tries:
                self._failed[place] = tries
            after = await self._after(letter, fate, tries)
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
