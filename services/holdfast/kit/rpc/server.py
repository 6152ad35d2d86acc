"""A server of ours listens where it was told or not at all, and says how it is until it has drained."""

import ipaddress
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from holdfast.kit.auth.access import Access
from holdfast.kit.metrics_page import shown
from holdfast.kit.process import Refused, Stop, announce
from holdfast.kit.rpc.faults import Translate
from holdfast.kit.rpc.interceptors import OPEN, server_interceptors
from holdfast.kit.rpc.limits import MESSAGE_OPTIONS
from holdfast.kit.rpc.reflection import add_reflection
from holdfast.kit.rpc.shedding import Shed
from holdfast.kit.rpc.tls import server_credentials
from holdfast.kit.telemetry.logs import logger
from holdfast.kit.telemetry.metrics import Metrics

_log: Final = logger("server")
_HEALTH: Final = "grpc.health.v1.Health"

KEEPALIVE: Final = 30.0
"""Seconds after which a silent connection is asked whether it lives; a third of that later it is given up."""

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    *MESSAGE_OPTIONS,
    ("grpc.so_reuseport", 0),  # else a second server shares the port, silently
    # Beyond 1,000 calls that no handler has taken yet gRPC cancels some: more come back after an outage.
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 60_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
)


@dataclass(frozen=True, slots=True)
class Registration:
    """A service of a server: its generated `add_…_to_server`, its servicer, its full name.

    With `ready` false its health is NOT_SERVING until `Server.set_serving` says otherwise.
    """

    add: Callable[[Any, Any], None]
    servicer: object
    name: str
    ready: bool = True


class Server:
    """Serves some registrations at one address, with health and, unless that is off, reflection.

    made ──start──▶ serving ──stop──▶ NOT_SERVING, draining ──(done | grace over)──▶ stopped
    """

    def __init__(
        self,
        registrations: Sequence[Registration],
        address: str,
        *,
        translate: Translate | None = None,
        hot: Collection[str] = (),
        shed: Shed | None = None,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        access: Access = OPEN,
        metrics: Metrics | None = None,
        allow_insecure_bind: bool = False,
        max_connection_age: float | None = None,
        max_connection_age_grace: float = 30.0,
        keepalive: float = KEEPALIVE,
    ) -> None:
        """Make a server for `address` (`host:port`, port 0 for any free one, or `unix:/path`).

        `translate`, `hot`, `shed` and `interceptors` (innermost) are those of `server_interceptors`;
        `metrics` count the calls. With
        `max_connection_age` (seconds) clients connect anew from time to time, and find new replicas. `access`
        says who may call; where anybody may, an address others can reach is refused unless it or
        `allow_insecure_bind` allows it.
        """
        self.address = address
        self.health_address = ""  # where health is told in plaintext beside TLS
        self.health = health.aio.HealthServicer()
        self._registrations = registrations
        self._access = access
        self._probed: grpc.aio.Server | None = None
        self._reachable = allow_insecure_bind or access.allow_insecure_bind or access.credentials is not None
        options = [
            *_OPTIONS,
            ("grpc.keepalive_time_ms", round(keepalive * 1000)),
            ("grpc.keepalive_timeout_ms", round(keepalive * 1000 / 3)),
        ]
        if access.bounds.streams_per_connection:
            options.append(("grpc.max_concurrent_streams", access.bounds.streams_per_connection))
        if max_connection_age is not None:
            options.append(("grpc.max_connection_age_ms", round(max_connection_age * 1000)))
            options.append(("grpc.max_connection_age_grace_ms", round(max_connection_age_grace * 1000)))
        self._server = grpc.aio.server(
            interceptors=server_interceptors(
                translate=translate,
                hot=hot,
                access=access,
                ended=None if metrics is None else metrics.calls.ended,
                shed=shed,
                more=interceptors,
            ),
            options=options,
        )

    async def start(self) -> int:
        """Bind and serve; return the port (0 for a unix socket). Raises `Refused` in one sentence."""
        for registration in self._registrations:
            registration.add(registration.servicer, self._server)
            await self.set_serving(registration.ready, registration.name)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        if self._access.bounds.reflection:
            add_reflection(self._server, [*(one.name for one in self._registrations), _HEALTH])
        address = _bindable(self.address, reachable=self._reachable)
        try:
            if self._access.tls.serves:
                port = self._server.add_secure_port(address, server_credentials(self._access.tls))
            else:
                port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise _in_use(self.address) from error
        await self._server.start()
        await self._start_health()
        if address.startswith("unix:"):
            return 0
        self.address = f"{address.rpartition(':')[0]}:{port}"
        return port

    async def _start_health(self) -> None:
        """Tell health in plaintext, at an address of its own, for probes that speak nothing else."""
        address = self._access.health_listen
        if not address:
            return
        self._probed = grpc.aio.server(options=_OPTIONS)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._probed)
        try:
            port = self._probed.add_insecure_port(_bindable(address, reachable=True))
        except RuntimeError as error:
            raise _in_use(address) from error
        await self._probed.start()
        self.health_address = f"{address.rpartition(':')[0]}:{port}"

    async def set_serving(self, serving: bool, name: str = "") -> None:  # noqa: FBT001 - it is what is set
        """Say in health whether a service (by default the whole server) can do its work now."""
        status = health_pb2.HealthCheckResponse
        await self.health.set(name, status.SERVING if serving else status.NOT_SERVING)

    async def stop(self, grace: float) -> None:
        """Turn NOT_SERVING, take no more calls, cut those still open after `grace` seconds. Repeatable."""
        await self.health.enter_graceful_shutdown()
        await self._server.stop(grace)
        if self._probed is not None:
            await self._probed.stop(0)


async def serve(
    registrations: Sequence[Registration],
    address: str,
    stop: Stop,
    *,
    service: str,
    grace: float = 10.0,
    drain: Callable[[], Awaitable[None]] | None = None,
    metrics: Metrics | None = None,
    metrics_listen: str = "",
    **options: Any,
) -> None:
    """Serve until `stop`, announcing readiness on standard output; the whole life of a service's server.

    `drain` runs between NOT_SERVING and the end of the open calls: stop leasing, hand leases back. `metrics`
    are shown at `metrics_listen`, if there is such an address. `options` are those of `Server`.
    """
    metrics = metrics or Metrics(service)
    server = Server(registrations, address, metrics=metrics, **options)
    async with shown(metrics, metrics_listen) as page:
        await server.start()
        try:
            _log.info("serving", address=server.address)
            announce(service, server.address, **({"metrics": page} if page else {}))
            await stop.wait()
            await server.health.enter_graceful_shutdown()
            if drain is not None:
                await drain()
        finally:
            await server.stop(grace)


def _in_use(address: str) -> Refused:
    return Refused(f"Cannot listen on {address}: the address is in use or not this machine's.")


def _bindable(address: str, *, reachable: bool) -> str:
    """Return the address as gRPC takes it, or refuse it."""
    if address.startswith("unix:"):
        return address
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004
        raise Refused(f"Cannot listen on {address!r}: an address is host:port, with a port from 0 to 65535.")
    if host == "localhost":
        return f"127.0.0.1:{port}"  # one address, not two that may differ in who holds the port
    if not reachable and not _is_loopback(host):
        raise Refused(
            f"Will not listen on {address}: without identity anyone who reaches it could act for any tenant, "
            "so only loopback addresses are served unless HOLDFAST_AUTH says how callers prove who they are, "
            "or HOLDFAST_ALLOW_INSECURE_BIND is true."
        )
    return address


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
