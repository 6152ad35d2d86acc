"""Messages of a JetStream stream become runs; each is acknowledged when it is durable, and not before.

    pulled ──▶ a run, a known one, or aside ──▶ acknowledged
       ├──(not now)───────▶ given back, pulled again later; until then nothing more is pulled
       └──(we are killed)─▶ pulled again after `ack_wait`, and known by its key

Edges that share a durable consumer share its messages. One that cannot become a run is set aside and holds
nobody up; so is one at which the Invoker fails `max_deliver` times.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import nats.errors
from nats.aio.msg import Msg

from holdfast.client import Invocation
from holdfast.client.errors import InvalidField, Violation
from holdfast.edge import cloud_event
from holdfast.edge.fault import Malformed, NotNow, TooLarge
from holdfast.edge.intake import Broken, Fate, Intake, Letter
from holdfast.edge.mapping import invocation_of, key_by
from holdfast.edge.nats_pull import Pull, PullBrokenError, open_pull
from holdfast.edge.plain import parsed
from holdfast.edge.received import Received
from holdfast.edge.source import Mapped, NatsSource
from holdfast.kit.loops import Loop
from holdfast.kit.secret import SecretMissingError, Secrets
from holdfast.kit.telemetry.logs import logger

_log: Final = logger("nats")

_LONGEST_PAUSE_S: Final = 5.0
# NATS, its stream, the consumer or a secret is not there: that passes, or is the operator's to mend.
_PASSING: Final = (nats.errors.Error, OSError, TimeoutError, PullBrokenError, SecretMissingError)


class NatsReader:
    """Reads one source until told to stop; NATS may be away for any time."""

    def __init__(self, source: NatsSource, intake: Intake, secrets: Secrets) -> None:
        self._source = source
        self._intake = intake
        self._secrets = secrets
        self._pull: Pull | None = None
        self._not_before = 0.0
        self._failures = 0
        self._told = ""
        self.loop = Loop(f"nats {source.of.name}", self.run_once, interval=0.01)

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop`."""
        try:
            await self.loop.run(stop)
        finally:
            await self._close()

    async def run_once(self) -> int:
        """Take what there is, waiting a moment for the first of it; return how many were acknowledged."""
        if (pause := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(min(pause, 1.0))
            return 0
        try:
            if self._pull is None:
                self._pull = await open_pull(self._source, self._secrets)
                self._failures, self._told = 0, ""
            messages = await self._pull.some()
            return await self._handle(messages, self._pull) if messages else 0
        except _PASSING as error:
            await self._close()
            self._wait_for(error)
            return 0
        except BaseException:
            await self._close()
            raise

    def _wait_for(self, error: Exception) -> None:
        """Try again a little later, each time; say once what is waited for."""
        self._not_before = time.monotonic() + min(_LONGEST_PAUSE_S, 0.2 * 2.0**self._failures)
        self._failures = min(self._failures + 1, 10)
        if (told := f"{type(error).__name__}: {error}") != self._told:
            self._told = told
            _log.warning("cannot read", source=self._source.of.name, error_text=told)

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
                self._not_before = time.monotonic() + min(after, _LONGEST_PAUSE_S)
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
        try:
            event = _received(message, own, cloud_events=source.format == "cloudevents")
            return Letter(invocation_of(event, body, source))
        except (Malformed, TooLarge) as refusal:
            return _refused(source, own, body, refusal)
        except Exception as error:  # noqa: BLE001 - one message must not end the reading of all others
            _log.error("a message cannot be read", error=error, source=source.name, key=own)
            return _refused(source, own, body, Malformed("The message cannot be read."))

    async def _close(self) -> None:
        pull, self._pull = self._pull, None
        if pull is not None:
            await pull.close()


def _refused(source: Mapped, own: str, body: bytes, refusal: Malformed | TooLarge) -> Letter:
    """Return a message as it is set aside: what was received, under its place in the stream."""
    field = refusal.field if isinstance(refusal, Malformed) else "body"
    return Letter(
        Invocation(source.intent, idempotency_key=key_by(source, own), tenant=source.tenant),
        body or b"(empty)",
        InvalidField(str(refusal), violations=[Violation(field, str(refusal))] if field else []),
    )


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
