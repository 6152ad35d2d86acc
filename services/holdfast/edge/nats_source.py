"""Messages of a JetStream stream become runs; each is acknowledged when it is durable, and not before.

    pulled ──▶ a run, a known one, or aside ──▶ acknowledged
       ├──(not now)───────▶ given back, pulled again later; until then nothing more is pulled
       └──(we are killed)─▶ pulled again after `ack_wait`, and known by its key

Edges that share a durable consumer share its messages. One that cannot become a run is set aside and holds
nobody up; so is one at which the Invoker fails `max_deliver` times.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import nats.errors
from nats.aio.msg import Msg

from holdfast.client.errors import InvalidField
from holdfast.edge import cloud_event
from holdfast.edge.fault import Malformed, NotNow
from holdfast.edge.intake import Broken, Fate, Intake, Letter
from holdfast.edge.letter import letter_of
from holdfast.edge.nats_pull import Pull, PullBrokenError, open_pull
from holdfast.edge.patience import Patience
from holdfast.edge.plain import parsed
from holdfast.edge.received import Received
from holdfast.edge.source import NatsSource
from holdfast.kit.loops import Loop
from holdfast.kit.secret import SecretMissingError, Secrets
from holdfast.kit.telemetry.logs import logger

_log: Final = logger("nats")

# NATS, its stream, the consumer or a secret is not there: that passes, or is the operator's to mend.
_PASSING: Final = (nats.errors.Error, OSError, TimeoutError, PullBrokenError, SecretMissingError)


class NatsReader:
    """Reads one source until told to stop; NATS may be away for any time."""

    def __init__(self, source: NatsSource, intake: Intake, secrets: Secrets) -> None:
        self._source = source
        self._intake = intake
        self._secrets = secrets
        self._pull: Pull | None = None
        self._patience = Patience(source.of.name, _log)
        self.loop = Loop(f"nats {source.of.name}", self.run_once, interval=0.01)

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop`."""
        try:
            await self.loop.run(stop)
        finally:
            await self._close()

    async def run_once(self) -> int:
        """Take what there is, waiting a moment for the first of it; return how many were acknowledged."""
        if await self._patience.waited():
            return 0
        try:
            if self._pull is None:
                self._pull = await open_pull(self._source, self._secrets)
                self._patience.opened()
            messages = await self._pull.some()
            return await self._handle(messages, self._pull) if messages else 0
        except _PASSING as error:
            await self._close()
            self._patience.failed(error)
            return 0
        except BaseException:
            await self._close()
            raise

    async def _handle(self, messages: Sequence[Msg], pull: Pull) -> int:
        letters = [self._letter(message, pull) for message in messages]
        fates = await self._intake.take(self._source.of, letters)
        done = 0
        for message, letter, fate in zip(messages, letters, fates, strict=True):
            after = await self._settle(message, letter, fate)
            if after is None:
                await message.ack()
                done += 1
            else:
                await message.nak(delay=after)
                self._patience.rest(after)
        await pull.flush()
        return done

    async def _settle(self, message: Msg, letter: Letter, fate: Fate) -> float | None:
        """Return after how many seconds a message is to come again; None if it is done with."""
        if not isinstance(fate, NotNow):
            return None
        if isinstance(fate, Broken) and message.metadata.num_delivered >= self._source.max_deliver:
            why = InvalidField(f"The Invoker failed at it {message.metadata.num_delivered} times.")
            (fate,) = await self._intake.set_aside(
                self._source.of, [Letter(letter.invocation, letter.body, why)]
            )
            if not isinstance(fate, NotNow):
                return None
        return fate.after

    def _letter(self, message: Msg, pull: Pull) -> Letter:
        source, body = self._source.of, message.data
        own = f"{pull.epoch}/{message.metadata.sequence.stream}"
        read = partial(_received, message, own, cloud_events=source.format == "cloudevents")
        return letter_of(read, own, body, source)

    async def _close(self) -> None:
        pull, self._pull = self._pull, None
        if pull is not None:
            await pull.close()


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
