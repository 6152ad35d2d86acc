"""A channel to the services: all addresses in turn, healing by itself, with TLS if there are credentials."""

import ipaddress
import json
from collections.abc import Sequence
from typing import Any, Final

import grpc

MAX_MESSAGE: Final = 4 * 1024 * 1024
_SCHEMES: Final = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "xds:")
_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.keepalive_time_ms", 30_000),  # servers refuse clients that ping more often
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),  # a replica that came back may have another address
    ("grpc.enable_retries", 0),  # we repeat ourselves, knowing which calls may be
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
)


def open_channel(
    address: str | Sequence[str], credentials: grpc.ChannelCredentials | None = None
) -> grpc.aio.Channel:
    """Open a channel to `host:port`, to several of them (joined by commas, or as a sequence), or to a URI.

    Several addresses are numeric; where they are names, let one name resolve to all of them.
    """
    target = _target(address if isinstance(address, str) else ",".join(address))
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=_OPTIONS)
    return grpc.aio.secure_channel(target, credentials, options=_OPTIONS)


def _target(address: str) -> str:
    if "://" in address or address.startswith(_SCHEMES):
        return address
    several = [part.strip() for part in address.split(",") if part.strip()]
    if not several:
        raise ValueError("The address is empty: it must be host:port.")
    if len(several) == 1:
        return f"dns:///{several[0]}"
    several = [part.replace("localhost:", "127.0.0.1:") for part in several]
    if all(_is_ipv4(part.rpartition(":")[0]) for part in several):
        return f"ipv4:{','.join(several)}"
    raise ValueError(f"Several addresses must be numeric (a.b.c.d:port), and {address!r} is not.")


def _is_ipv4(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 4  # noqa: PLR2004 - the protocol's name
    except ValueError:
        return False
