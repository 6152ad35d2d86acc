"""A unary gRPC call of a destination: to an address that was checked, and always ending in a `CallResult`.

A gRPC destination is kept as a URL, `grpcs://host:port/package.Service/Method`, or `grpc://…` without TLS;
with `?raw` its effects' bodies are the request's bytes in base64, else JSON that is fitted to what the server
says by reflection that the method takes.
"""

import asyncio
import base64
import binascii
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from holdfast.dispatcher.address import AddressPolicy, AddressRefusedError, Endpoint
from holdfast.dispatcher.answer import CallResult, of_failure
from holdfast.dispatcher.grpc_shape import BodyUnfitError, ShapeUnknownError, encoded, input_of
from holdfast.dispatcher.request import header_key
from holdfast.dispatcher.scheme import checked_as
from holdfast.ledger.domain.delivery import Answer, BreakerVote
from holdfast.ledger.outbox_claim import Delivery

SCHEMES: Final = frozenset({"grpcs", "grpc"})
RAW: Final = "?raw"
_MOST_CHANNELS: Final = 256
_MOST_READ: Final = 1_048_576
_SHAPE_S: Final = 60.0  # how long a server's description of a method is believed
_CODE: Final = grpc.StatusCode
_REFUSED: Final = frozenset(
    {_CODE.INVALID_ARGUMENT, _CODE.NOT_FOUND, _CODE.ALREADY_EXISTS, _CODE.PERMISSION_DENIED}
    | {_CODE.FAILED_PRECONDITION, _CODE.OUT_OF_RANGE, _CODE.UNIMPLEMENTED, _CODE.UNAUTHENTICATED}
)


def is_grpc(url: str) -> bool:
    """Say whether a destination's URL is one of gRPC."""
    return url.partition("://")[0] in SCHEMES


def url_of(target: str, method: str, *, plaintext: bool, raw: bool) -> str:
    """Return the URL as which a gRPC destination is kept."""
    return f"{'grpc' if plaintext else 'grpcs'}://{target}/{method}{RAW if raw else ''}"


def parts_of(url: str) -> tuple[str, str, bool, bool]:
    """Return target and method of a gRPC destination, and whether it is without TLS, and raw."""
    scheme, _, rest = url.partition("://")
    target, _, path = rest.partition("/")
    return target, path.removesuffix(RAW), scheme == "grpc", path.endswith(RAW)


def of_code(code: grpc.StatusCode, *, sent: bool = True) -> CallResult:
    """Read how a call ended; `sent` False says that it was none of the effect, which cannot be there then."""
    if code is _CODE.OK:
        return CallResult(Answer.ACCEPTED, BreakerVote.WORKS)
    reason, message = f"GRPC_{code.name}", f"The destination answered {code.name}."
    if code in _REFUSED:
        return CallResult(Answer.REFUSED, BreakerVote.WORKS, reason=reason, message=message)
    taken = Answer.UNCERTAIN if sent and code is not _CODE.RESOURCE_EXHAUSTED else Answer.NOT_TAKEN
    vote = BreakerVote.ABSTAINS if code is _CODE.ABORTED else BreakerVote.FAILS
    return CallResult(taken, vote, reason=reason, message=message)


@dataclass(slots=True)
class _Open:
    """A channel to checked addresses, and what is known of the server's methods and until when."""

    channel: grpc.aio.Channel
    in_use: int = 0
    shapes: dict[str, tuple[float, type[Message]]] = field(default_factory=dict)


class GrpcCalls:
    """Calls gRPC destinations; `close` ends it. Channels are used again, those used longest ago go first."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._open: dict[tuple[str, str], _Open] = {}

    async def send(self, delivery: Delivery) -> CallResult:
        """Make the call, and say what came of it; takes at most the destination's timeout."""
        try:
            async with asyncio.timeout(delivery.destination.timeout_s):
                opened = await self._channel(delivery.destination.url)
                try:
                    return await self._send(opened, delivery)
                finally:
                    opened.in_use -= 1
        except (TimeoutError, AddressRefusedError) as error:
            result = of_failure(error)
            assert result is not None  # both have one
            return result

    async def close(self) -> None:
        """Close all channels."""
        opened, self._open = self._open, {}
        for one in opened.values():
            await one.channel.close()

    async def _send(self, opened: _Open, delivery: Delivery) -> CallResult:
        _, method, _, raw = parts_of(delivery.destination.url)
        try:
            body = await self._body(opened, method, delivery.body, raw=raw)
        except grpc.aio.AioRpcError as error:
            return of_code(error.code(), sent=False)
        except ShapeUnknownError as error:  # until the server is mended the breaker parks what waits
            return CallResult(
                Answer.NOT_TAKEN, BreakerVote.FAILS, reason="METHOD_UNKNOWN", message=str(error)
            )
        except BodyUnfitError as error:
            return CallResult(Answer.REFUSED, BreakerVote.ABSTAINS, reason="UNSENDABLE", message=str(error))
        unary: Any = opened.channel.unary_unary(f"/{method}")  # bytes in, bytes out
        call = unary(body, metadata=_metadata(delivery))
        try:
            await call
        except grpc.aio.AioRpcError as error:
            opened.shapes.pop(method, None)  # it may have changed
            return of_code(error.code())
        finally:
            call.cancel()
        return of_code(_CODE.OK)

    async def _body(self, opened: _Open, method: str, body: bytes, *, raw: bool) -> bytes:
        if raw:
            try:
                return base64.b64decode(json.loads(body), validate=True)
            except (binascii.Error, TypeError, ValueError) as error:
                raise BodyUnfitError("The body is no text of base64.") from error
        now = asyncio.get_running_loop().time()
        until, shape = opened.shapes.get(method, (0.0, Message))
        if until < now:
            shape = await input_of(opened.channel, method)
            opened.shapes[method] = (now + _SHAPE_S, shape)
        return encoded(shape, json.loads(body))

    async def _channel(self, url: str) -> _Open:
        """Return a channel to the addresses that the host has now and that may be called."""
        endpoint = self._policy.endpoint(checked_as(url))
        target = _target(endpoint, await self._policy.addresses(endpoint))
        place = (url.partition("://")[0] + "://" + endpoint.host, target)
        opened = self._open.pop(place, None) or _Open(_channel(endpoint, target))
        self._open[place] = opened  # at the end: used last
        opened.in_use += 1
        for old in [key for key, one in self._open.items() if not one.in_use][:-_MOST_CHANNELS]:
            await self._open.pop(old).channel.close()
        return opened


def _target(endpoint: Endpoint, addresses: Sequence[str]) -> str:
    """Name checked addresses, of one family, so that gRPC resolves nothing itself."""
    version = ipaddress.ip_address(addresses[0].partition("%")[0]).version
    same = [each for each in addresses if (":" in each) == (version == 6)]  # noqa: PLR2004 - the family
    places = [f"[{each}]:{endpoint.port}" if ":" in each else f"{each}:{endpoint.port}" for each in same]
    return f"ipv{version}:{','.join(places)}"


def _channel(endpoint: Endpoint, target: str) -> grpc.aio.Channel:
    options: list[tuple[str, Any]] = [
        ("grpc.default_authority", f"{endpoint.host}:{endpoint.port}"),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),  # they are counted here
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.max_receive_message_length", _MOST_READ),
    ]
    if endpoint.scheme == "http":
        return grpc.aio.insecure_channel(target, options)
    options.append(("grpc.ssl_target_name_override", endpoint.host))
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options)


def _metadata(delivery: Delivery) -> list[tuple[str, str]]:
    metadata = [(name.lower(), value) for name, value in delivery.destination.headers.items()]
    metadata.append(("idempotency-key", header_key(delivery.idempotency_key)))
    if delivery.traceparent:
        metadata.append(("traceparent", delivery.traceparent))
    return metadata
