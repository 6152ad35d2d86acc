"""A channel finds every replica, heals by itself, and repeats only what may be repeated."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, TypeVar

import grpc

from holdfast.kit.rpc.deadline import deadline_interceptors
from holdfast.kit.rpc.limits import MESSAGE_OPTIONS
from holdfast.kit.rpc.tracing import client_interceptors

_SCHEMES: Final = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "xds:", "vsock:")

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    *MESSAGE_OPTIONS,
    ("grpc.keepalive_time_ms", 30_000),  # servers refuse clients that ping more often than every 10 s
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
)

_RETRY: Final = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


class Cancellable(Protocol):
    """Any call."""

    def cancel(self) -> bool:
        """End the call on both sides."""
        ...


C = TypeVar("C", bound=Cancellable)


def channel(
    target: str,
    *,
    idempotent: Sequence[str] = (),
    credentials: grpc.ChannelCredentials | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    deadlines: bool = True,
) -> grpc.aio.Channel:
    """Open a channel to `host:port` (resolved by DNS, all addresses in turn) or a URI such as `unix:/path`.

    `idempotent` names what may be sent again after UNAVAILABLE, at most three times and throttled: methods
    (`holdfast.v1.InvokerService/GetRun`) or whole services. With `deadlines` a call for one response, made
    while serving another call, gets no more time than that one has left.
    """
    uri = target if "://" in target or target.startswith(_SCHEMES) else f"dns:///{target}"
    options: list[tuple[str, Any]] = [*_OPTIONS, ("grpc.service_config", _service_config(idempotent))]
    around = [*interceptors, *(deadline_interceptors() if deadlines else ()), *client_interceptors()]
    if credentials is None:
        return grpc.aio.insecure_channel(uri, options=options, interceptors=around)
    return grpc.aio.secure_channel(uri, credentials, options=options, interceptors=around)


@asynccontextmanager
async def streaming(call: C) -> AsyncIterator[C]:
    """Hold a streaming call, and cancel it however the block ends: the server's handler ends too."""
    try:
        yield call
    finally:
        call.cancel()


def _service_config(idempotent: Sequence[str]) -> str:
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if idempotent:
        config["methodConfig"] = [{"name": [_named(name) for name in idempotent], "retryPolicy": _RETRY}]
        # Ten failures in a row use the tokens up; retries wait until as many calls as this have gone well.
        config["retryThrottling"] = {"maxTokens": 20, "tokenRatio": 0.5}
    return json.dumps(config)


def _named(name: str) -> dict[str, str]:
    service, _, method = name.strip("/").partition("/")
    return {"service": service, "method": method} if method else {"service": service}
