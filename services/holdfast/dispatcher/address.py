"""An effect goes only where the operator lets it: checked when a destination is made, and at each connection.

The name is checked against the allow-list, and then every address it resolves to; the connection is made to
an address that was checked, so a name that changes its mind in between (DNS rebinding) gains nothing.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a host, as texts; raises `OSError` if it has none."""

_LONGEST: Final = 2048
_PORTS: Final = {"https": 443, "http": 80}
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
# Where clouds keep credentials, beside the link-local addresses: AWS (IPv6), Alibaba, Azure, Oracle.
_CREDENTIALS: Final = frozenset(
    ipaddress.ip_address(text)
    for text in ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
)


class AddressRefusedError(Exception):
    """The operator does not allow this address; the text is one sentence without secrets."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The parts of a URL that say whom a connection is made to."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Target:
    """A URL as a request needs it: whom to connect to, what goes into `Host`, and what is asked for there."""

    endpoint: Endpoint
    host: bytes
    path: bytes


async def system_resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class AddressPolicy:
    """The operator's rules.

    `allowed_hosts` are `host`, `host:port` or `*.domain[:port]`; if none, any public host is allowed.
    Private addresses (loopback included) are allowed only with `allow_private`, and then on any port and
    without TLS; link-local and other addresses where clouds keep credentials, never.
    """

    def __init__(
        self,
        *,
        allowed_hosts: Sequence[str] = (),
        allowed_ports: Sequence[int] = (80, 443),
        allow_private: bool = False,
        allow_plain_http: bool = False,
        resolve: Resolve = system_resolve,
    ) -> None:
        self._patterns = [pattern.lower() for pattern in allowed_hosts]
        self._ports = frozenset(allowed_ports)
        self._allow_private = allow_private
        self._allow_plain_http = allow_plain_http
        self._resolve = resolve

    async def check(self, url: str) -> None:
        """Check a URL and everything it resolves to now. Raises `AddressRefusedError`."""
        await self.addresses(self.endpoint(url))

    def endpoint(self, url: str) -> Endpoint:
        """Read whom a URL names and check the name. Raises `AddressRefusedError`."""
        return self.target(url).endpoint

    def target(self, url: str) -> Target:
        """Take a URL apart and check the name in it. Raises `AddressRefusedError`."""
        target = _taken_apart(url)
        self._check_name(target.endpoint)
        return target

    async def addresses(self, endpoint: Endpoint) -> list[str]:
        """Resolve a host, and return its addresses if every one is allowed. Raises `AddressRefusedError`."""
        self._check_name(endpoint)
        try:
            found = await self._resolve(endpoint.host, endpoint.port)
        except OSError as error:
            raise AddressRefusedError(f"The host {endpoint.host} does not resolve.") from error
        if not found:
            raise AddressRefusedError(f"The host {endpoint.host} does not resolve.")
        for text in found:
            self._check_address(endpoint, _effective(ipaddress.ip_address(text.partition("%")[0])))
        return list(found)

    def _check_name(self, endpoint: Endpoint) -> None:
        if self._patterns and not any(_matches(pattern, endpoint) for pattern in self._patterns):
            raise AddressRefusedError(f"The operator's list of allowed hosts does not have {endpoint.host}.")

    def _check_address(self, endpoint: Endpoint, address: Address) -> None:
        reserved = address.is_reserved and not address.is_loopback  # ::1 is both
        never = address.is_link_local or address.is_multicast or address.is_unspecified or reserved
        if never or address in _CREDENTIALS:
            raise AddressRefusedError(f"The host {endpoint.host} has an address that is never allowed.")
        if address.is_global and not _is_site_local(address):
            self._check_public(endpoint)
        elif not self._allow_private:
            raise AddressRefusedError(f"The host {endpoint.host} has a private address.")

    def _check_public(self, endpoint: Endpoint) -> None:
        if endpoint.scheme == "http" and not self._allow_plain_http:
            raise AddressRefusedError("Public hosts are called over https only.")
        named = any(":" in pattern and _matches(pattern, endpoint) for pattern in self._patterns)
        if endpoint.port not in self._ports and not named:
            raise AddressRefusedError(f"The operator does not allow port {endpoint.port}.")


@lru_cache(maxsize=1024)  # a destination's is asked for at each of its calls
def _taken_apart(url: str) -> Target:
    """Read a URL, once for those who check and those who connect: two readers may see two hosts."""
    if len(url) > _LONGEST or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise AddressRefusedError(f"The URL is not one of at most {_LONGEST} printable ASCII characters.")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise AddressRefusedError("The URL cannot be parsed.") from error
    if parsed.scheme not in _PORTS or not parsed.host:
        raise AddressRefusedError("The URL is not https://host/… (or http, where that is allowed).")
    if parsed.userinfo or parsed.fragment:
        raise AddressRefusedError("The URL has a user, a password or a fragment; it may have none.")
    host = parsed.raw_host.decode("ascii").lower()
    endpoint = Endpoint(parsed.scheme, host, parsed.port or _PORTS[parsed.scheme])
    return Target(endpoint, parsed.netloc, parsed.raw_path)


def _matches(pattern: str, endpoint: Endpoint) -> bool:
    """Match `host`, `host:port` or `*.domain[:port]`; an IPv6 host is written in brackets."""
    name = endpoint.host.rstrip(".")
    host, port = pattern, ""
    if pattern.rpartition(":")[2].isdigit() and not pattern.endswith("]"):
        host, _, port = pattern.rpartition(":")
    host = host.strip("[]")
    if port and int(port) != endpoint.port:
        return False
    if host.startswith("*."):
        return name.endswith(host[1:])
    return name == host


def _is_site_local(address: Address) -> bool:
    """Tell fec0::/10: given up by RFC 3879, called global by the standard library, and private where used."""
    return isinstance(address, ipaddress.IPv6Address) and address.is_site_local


def _effective(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address leads to, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
