"""Pulling from a durable JetStream consumer: what there is, else the first that comes within a moment.

One request is under way at a time; what it brings meanwhile waits in the client. Status messages (ADR-13 of
NATS) end a request: 404, 408 if there was nothing, 409 if the server has to end it. Each is answered on a
subject of its own, so that the end of one given up does not end the next.
"""

import asyncio
import json
import time
from typing import Any, Final

import nats
import nats.errors
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from holdfast.edge.secret import SecretMissingError, Secrets
from holdfast.edge.source import NatsSource
from holdfast.kit.nats_login import login_of
from holdfast.kit.telemetry.logs import logger

_log: Final = logger("nats")

_WAIT_S: Final = 2.0
"""How long a request waits at the server for a first message."""
_CONNECT_S: Final = 5.0
_GRACE_S: Final = 1.0
_NOTHING: Final = frozenset({"404", "408"})
_STATUS: Final = "Status"
_DEAF: Final = 5


class PullBrokenError(Exception):
    """The consumer, its stream or the connection is not as it was: all is opened anew."""


class Pull:
    """A durable consumer in use; `epoch` names its stream, as one made anew counts from the beginning."""

    def __init__(
        self, client: NatsClient, inbox: Subscription, reply: str, source: NatsSource, epoch: str
    ) -> None:
        self.epoch = epoch
        self._client = client
        self._inbox = inbox
        self._reply = reply
        self._asked = 0
        self._batch = source.batch
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{source.stream}.{source.durable}"
        self._due = 0
        self._until = 0.0
        self._unanswered = 0

    async def some(self) -> list[Msg]:
        """Return up to a batch of messages; none if none came within a moment. Raises `PullBrokenError`."""
        messages: list[Msg] = []
        if self._due <= 0:
            await self._ask()
        while (
            len(messages) < self._batch and (message := await self._message(first=not messages)) is not None
        ):
            if message.reply:  # to be acknowledged, so no status, whatever headers its publisher gave it
                self._due -= 1
                messages.append(message)
            elif message.subject == self._request and not self._goes_on(message):
                break
        return messages

    @property
    def _request(self) -> str:
        """The subject on which the request under way is answered."""
        return f"{self._reply}.{self._asked}"

    async def flush(self) -> None:
        """Send what was acknowledged. Raises `PullBrokenError`."""
        if self._client.is_connected:
            await self._client.flush(timeout=int(_CONNECT_S))

    async def close(self) -> None:
        """Close the connection; what was pulled and not acknowledged is pulled again by others."""
        await self._client.close()

    async def _ask(self) -> None:
        if self._client.is_closed:
            raise PullBrokenError("The connection to NATS is closed.")
        if not self._client.is_connected:
            return  # the client would keep each request, and make all of them when the server is back
        self._due = self._batch
        self._asked += 1
        self._until = time.monotonic() + _WAIT_S
        request = {"batch": self._batch, "expires": int(_WAIT_S * 1e9)}
        await self._client.publish(self._next, json.dumps(request).encode(), reply=self._request)

    async def _message(self, *, first: bool) -> Msg | None:
        """Return the next message: waiting for it if it is the first, else if it is here already."""
        if not first and not self._inbox.pending_msgs:
            return None
        wait = max(0.0, self._until - time.monotonic()) + _GRACE_S if first else _GRACE_S
        try:
            message = await self._inbox.next_msg(timeout=wait)
        except nats.errors.TimeoutError:
            if self._due > 0:  # the server says when there is nothing: it, or the request, was away
                self._due = 0
                self._unanswered += 1
            if self._unanswered >= _DEAF and self._client.is_connected:
                raise PullBrokenError("NATS does not answer.") from None
            return None
        except nats.errors.Error as error:
            raise PullBrokenError("The connection to NATS broke.") from error
        self._unanswered = 0
        return message

    def _goes_on(self, status: Msg) -> bool:
        """Read a status; False if the request is at its end. Raises `PullBrokenError`."""
        headers = status.headers or {}
        code = headers.get(_STATUS)
        if code == "100":
            return True
        self._due = 0
        told = headers.get("Description", "")
        if code not in _NOTHING and not told.startswith(("Exceeded Max", "Batch Completed")):
            raise PullBrokenError(f"NATS ended the request: {code} {told}")
        return False


async def open_pull(source: NatsSource, secrets: Secrets) -> Pull:
    """Connect, and find the durable consumer or make it. Raises errors of NATS, and `SecretMissingError`."""
    try:
        login = login_of(secrets.text(source.credentials)) if source.credentials else {}
    except ValueError as error:
        raise SecretMissingError(str(error)) from error
    client = NatsClient()
    try:
        async with asyncio.timeout(_CONNECT_S):
            await client.connect(
                servers=list(source.servers),
                name=f"holdfast-edge {source.of.name}",
                error_cb=_failed,
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                **login,
            )
            epoch = await _consumer(client, source)
            reply = client.new_inbox()
            inbox = await client.subscribe(f"{reply}.*")
    except BaseException:
        await client.close()
        raise
    _log.info("reading", source=source.of.name, stream=source.stream, consumer=source.durable)
    return Pull(client, inbox, reply, source, epoch)


async def _consumer(client: NatsClient, source: NatsSource) -> str:
    """See to it that the consumer is there; return what names its stream."""
    manager = client.jsm()
    stream = await manager.stream_info(source.stream)
    try:
        await manager.consumer_info(source.stream, source.durable)
    except NotFoundError:
        wanted = ConsumerConfig(
            durable_name=source.durable,
            name=source.durable,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=source.ack_wait,
            deliver_policy=DeliverPolicy.ALL if source.deliver == "all" else DeliverPolicy.NEW,
            filter_subject=source.subject or None,
            max_deliver=-1,  # none is lost in silence: what fails again and again is set aside
        )
        await manager.add_consumer(source.stream, wanted)
    created: Any = stream.created
    return f"{source.stream}@{int(created.timestamp())}" if created is not None else source.stream


async def _failed(error: Exception) -> None:
    _log.warning("nats", error_text=str(error) or type(error).__name__)
