"""Messages of a JetStream stream become runs; each is acknowledged when it is durable, and not before.

    pulled ──▶ a run, a known one, or aside ──▶ acknowledged
       ├──(not now)───────▶ given back, pulled again later; until then nothing more is pulled
       └──(we are killed)─▶ pulled again after `ack_wait`, and known by its key

Edges that share a durable consumer share its messages. One that cannot become a run is set aside and holds
nobody up; so is one at which the Invoker fails `max_deliver` times.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import nats.errors
from nats.aio.msg import Msg

from holdfast.edge import cloud_event
from holdfast.edge.fault import Malformed
from holdfast.edge.intake import Intake, Letter
from holdfast.edge.letter import letter_of
from holdfast.edge.nats_pull import Pull, PullBrokenError, open_pull
from holdfast.edge.plain import parsed
from holdfast.edge.reader import Reader
from holdfast.edge.received import Received
from holdfast.edge.source import NatsSource
from holdfast.kit.secret import SecretMissingError, Secrets
from holdfast.kit.telemetry.logs import logger

_log: Final = logger("nats")


class NatsReader(Reader[Pull]):
    """Reads one source until told to stop; NATS may be away for any time."""

    passing = (nats.errors.Error, OSError, TimeoutError, PullBrokenError, SecretMissingError)

    def __init__(self, source: NatsSource, intake: Intake, secrets: Secrets) -> None:
        super().__init__("nats", source.of, intake, source.max_deliver, _log)
        self._source = source
        self._secrets = secrets

    async def _open(self) -> Pull:
        return await open_pull(self._source, self._secrets)

    async def _read(self, held: Pull) -> int:
        messages = await held.some()
        return await self._handle(messages, held) if messages else 0

    async def _handle(self, messages: Sequence[Msg], pull: Pull) -> int:
        letters = [self._letter(message, pull) for message in messages]
        fates = await self._intake.take(self._of, letters)
        done = 0
        for message, letter, fate in zip(messages, letters, fates, strict=True):
            after = await self._after(letter, fate, message.metadata.num_delivered)
            if after is None:
                await message.ack()
                done += 1
            else:
                await message.nak(delay=after)
                self._patience.rest(after)
        await pull.flush()
        return done

    def _letter(self, message: Msg, pull: Pull) -> Letter:
        source, body = self._of, message.data
        own = f"{pull.epoch}/{message.metadata.sequence.stream}"
        read = partial(_received, message, own, cloud_events=source.format == "cloudevents")
        return letter_of(read, own, body, source)


def _received(message: Msg, own: str, *, cloud_events: bool) -> Received:
    """Read a message; `own` stands for it unless it says itself what does. Raises `Malformed`."""
    headers = {_text(name).lower(): _text(value) for name, value in (message.headers or {}).items()}
    if not cloud_events:
        known = headers.get("nats-msg-id") or own
        return Received(headers, parsed(message.data), own_key=known, subject=message.subject)
    events = cloud_event.events_of(headers, message.data)
    if len(events) != 1:
        raise Malformed("A message is one event.", "body")
    return replace(events[0], subject=message.subject)


def _text(header: str) -> str:
    """Return a header as text that can be kept: without NUL, and bytes that are no UTF-8, here surrogates."""
    return header.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\0", "\ufffd")
