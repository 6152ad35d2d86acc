"""An effect published to a subject of a JetStream stream: delivered when the stream has acknowledged it.

A NATS destination is kept as a URL, `natss://host:port/subject`, or `nats://…` without TLS. A connection is
made to an address that was checked, and never goes on at another, whatever servers a server names.
"""

import asyncio
import hashlib
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import nats.errors
import nats.js.errors
from nats.aio.client import Client

from holdfast.dispatcher.address import AddressPolicy, AddressRefusedError, Endpoint
from holdfast.dispatcher.answer import CallResult, of_failure
from holdfast.dispatcher.request import header_key
from holdfast.dispatcher.scheme import checked_as
from holdfast.dispatcher.secret import SecretMissingError, Secrets
from holdfast.kit.nats_login import login_of
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger.domain.delivery import Answer, BreakerVote
from holdfast.ledger.outbox_claim import Delivery

SCHEMES: Final = frozenset({"natss", "nats"})
SUBJECT: Final = re.compile(r"(?=.{1,255}\Z)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_TOO_LARGE: Final = 10054  # JetStream's number for a message beyond what its stream takes
_MOST_CONNECTIONS: Final = 64

_log: Final = logger("nats")


def is_nats(url: str) -> bool:
    """Say whether a destination's URL is one of NATS."""
    return url.partition("://")[0] in SCHEMES


def url_of(server: str, subject: str, *, plaintext: bool) -> str:
    """Return the URL as which a NATS destination is kept."""
    return f"{'nats' if plaintext else 'natss'}://{server}/{subject}"


def parts_of(url: str) -> tuple[str, str, bool]:
    """Return server and subject of a NATS destination, and whether it is without TLS."""
    scheme, _, rest = url.partition("://")
    server, _, subject = rest.partition("/")
    return server, subject, scheme == "nats"


@dataclass(slots=True)
class _Line:
    """A connection to one server as one user; one is made at a time."""

    client: Client | None = None
    address: str = ""
    in_use: int = 0
    making: asyncio.Lock = field(default_factory=asyncio.Lock)


class _NotConnectedError(Exception):
    """No connection was made; nothing was sent."""


class NatsCalls:
    """Publishes to NATS destinations; `close` ends it. Connections are used again."""

    def __init__(self, policy: AddressPolicy, secrets: Secrets) -> None:
        self._policy = policy
        self._secrets = secrets
        self._lines: dict[tuple[str, str, bytes], _Line] = {}

    async def send(self, delivery: Delivery) -> CallResult:
        """Publish, and say what came of it; takes at most the destination's timeout."""
        sent = False
        try:
            async with asyncio.timeout(delivery.destination.timeout_s):
                async with self._line(delivery) as line:
                    client = await self._client(line, delivery)
                    sent = True
                    return await _publish(client, delivery)
        except _NotConnectedError:
            return _not_taken("UNREACHABLE", "No connection was made.")
        except TimeoutError as error:
            return _known(error) if sent else _not_taken("UNREACHABLE", "No connection was made in time.")
        except (AddressRefusedError, SecretMissingError) as error:
            return _known(error)

    async def close(self) -> None:
        """Close all connections."""
        lines, self._lines = self._lines, {}
        for line in lines.values():
            if line.client is not None:
                await line.client.close()

    @asynccontextmanager
    async def _line(self, delivery: Delivery) -> AsyncIterator[_Line]:
        """Hold the line of a server and a user; the longest idle ones beyond so many are given up."""
        to = delivery.destination
        server, _, _ = parts_of(to.url)
        who = hashlib.sha256(self._login(delivery, server).encode()).digest()
        place = (to.url.partition("://")[0] + "://" + server, f"{to.tenant}/{to.secret_name}", who)
        line = self._lines.pop(place, None) or _Line()
        self._lines[place] = line
        line.in_use += 1  # before anything is waited for, or others would give it up
        try:
            await self._give_up_idle()
            yield line
        finally:
            line.in_use -= 1

    async def _give_up_idle(self) -> None:
        while len(self._lines) > _MOST_CONNECTIONS:
            idle = next((place for place, line in self._lines.items() if not line.in_use), None)
            if idle is None:
                return
            if (client := self._lines.pop(idle).client) is not None:
                await client.close()

    def _login(self, delivery: Delivery, server: str) -> str:
        to = delivery.destination
        return self._secrets.login(to.tenant, to.secret_name, server) if to.secret_name else ""

    async def _client(self, line: _Line, delivery: Delivery) -> Client:
        """Return a connection to an address that the host has now and that may be called."""
        url = delivery.destination.url
        server, _, _ = parts_of(url)
        endpoint = self._policy.endpoint(checked_as(url))
        addresses = await self._policy.addresses(endpoint)
        async with line.making:
            if line.client is not None and line.client.is_connected and line.address in addresses:
                return line.client
            if line.client is not None:
                await line.client.close()
            line.client, line.address = None, addresses[0]
            line.client = await _connected(endpoint, addresses[0], self._login(delivery, server))
            return line.client


async def _connected(endpoint: Endpoint, address: str, login: str) -> Client:
    client = Client()
    host = f"[{address}]" if ":" in address else address
    tls: dict[str, Any] = {}
    if endpoint.scheme == "https":
        tls = {"tls": ssl.create_default_context(), "tls_hostname": endpoint.host}
    try:
        await client.connect(
            servers=[f"{'tls' if tls else 'nats'}://{host}:{endpoint.port}"],
            name="holdfast-dispatcher",
            allow_reconnect=False,
            error_cb=_failed,
            **tls,
            **(login_of(login) if login else {}),
        )
    except (nats.errors.Error, OSError, ssl.SSLError) as error:
        await client.close()
        raise _NotConnectedError from error
    except BaseException:
        await client.close()
        raise
    return client


async def _publish(client: Client, delivery: Delivery) -> CallResult:
    to = delivery.destination
    _, subject, _ = parts_of(to.url)
    stream = client.jetstream(timeout=to.timeout_s)
    try:
        await stream.publish(subject, delivery.body, headers=_headers(delivery))
    except nats.errors.MaxPayloadError:
        return _refused("The message is larger than the server takes.")
    except (nats.js.errors.NoStreamResponseError, nats.errors.NoRespondersError):
        return _not_taken("NO_STREAM", "No stream takes this subject.")
    except nats.js.errors.APIError as error:
        if error.err_code == _TOO_LARGE:
            return _refused("The message is larger than the stream takes.")
        return _not_taken("STREAM_REFUSED", f"The stream did not take it: error {error.err_code}.")
    except nats.errors.TimeoutError:
        raise TimeoutError from None
    except (nats.errors.Error, OSError):
        message = "The connection broke before the stream acknowledged."
        return CallResult(Answer.UNCERTAIN, BreakerVote.FAILS, reason="CONNECTION_LOST", message=message)
    return CallResult(Answer.ACCEPTED, BreakerVote.WORKS)


def _headers(delivery: Delivery) -> dict[str, str]:
    """Return the headers; a stream may be several tenants', so its id of a message is not the key alone."""
    key = header_key(delivery.idempotency_key)
    headers = {"content-type": "application/json"} | dict(delivery.destination.headers)
    headers |= {"Nats-Msg-Id": f"{quote(delivery.destination.tenant, safe='')}/{key}", "idempotency-key": key}
    return headers | ({"traceparent": delivery.traceparent} if delivery.traceparent else {})


def _not_taken(reason: str, message: str) -> CallResult:
    return CallResult(Answer.NOT_TAKEN, BreakerVote.FAILS, reason=reason, message=message)


def _refused(message: str) -> CallResult:
    return CallResult(Answer.REFUSED, BreakerVote.ABSTAINS, reason="UNSENDABLE", message=message)


def _known(error: Exception) -> CallResult:
    result = of_failure(error)
    assert result is not None  # each of these has one
    return result


async def _failed(error: Exception) -> None:
    _log.info("a connection of a destination", error_text=type(error).__name__)
