"""The dispatcher cannot be made to call what the operator does not let it call."""

import ipaddress
from collections.abc import Callable, Sequence
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.dispatcher.address import AddressPolicy, AddressRefusedError

PUBLIC = "93.184.215.14"


def policy(*addresses: str, **rules: object) -> AddressPolicy:
    async def resolve(host: str, port: int) -> Sequence[str]:
        if not addresses:
            raise OSError(f"{host}:{port} does not resolve")
        return addresses

    return AddressPolicy(resolve=resolve, **rules)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url", ["https://hooks.example/in", "https://hooks.example:443/", "https://münchen.example/"]
)
async def test_a_public_host_over_https_is_allowed(url: str) -> None:
    if url.isascii():
        await policy(PUBLIC).check(url)
    else:
        with pytest.raises(AddressRefusedError, match="ASCII"):
            await policy(PUBLIC).check(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example/in",
        "//hooks.example/in",
        "ftp://hooks.example/",
        "file:///etc/passwd",
        "gopher://hooks.example/",
        "https://",
        "https:///in",
        "https://user@hooks.example/",
        "https://user:word@hooks.example/",
        "https://hooks.example/#part",
        "https://hooks.example\\@10.0.0.1/",
        "https://hooks.example/a b",
        "https://hooks.example/\r\nHost: other",
        "https://hooks.example:99999/",
        "https://hooks.example:port/",
        "https://[::1/",
        "https://hooks.example/" + "x" * 2100,
    ],
)
async def test_a_url_that_is_odd_in_any_way_is_refused(url: str) -> None:
    with pytest.raises(AddressRefusedError):
        await policy(PUBLIC).check(url)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fec0::1",
        "64:ff9b:1::a9fe:a9fe",
        "::7f00:1",
        "::ffff:169.254.169.254",
        "2002:a9fe:a9fe::",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
    ],
)
async def test_a_host_with_a_private_address_is_refused_also_among_public_ones(address: str) -> None:
    for addresses in ((address,), (PUBLIC, address)):
        with pytest.raises(AddressRefusedError):
            await policy(*addresses).check("https://hooks.example/")


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "::1", "fd00::7", "::ffff:192.168.0.1"])
async def test_private_addresses_are_allowed_where_the_operator_says_so_on_any_port_without_tls(
    address: str,
) -> None:
    await policy(address, allow_private=True).check("http://service.local:8080/")


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "::ffff:168.63.129.16",
        "192.0.0.192",
        "fe80::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "240.0.0.1",
    ],
)
async def test_addresses_of_credentials_and_of_everyone_are_never_allowed(address: str) -> None:
    with pytest.raises(AddressRefusedError, match="never"):
        await policy(address, allow_private=True).check("https://hooks.example/")


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1", "[::ffff:127.0.0.1]", "localhost"])
async def test_loopback_in_disguise_is_refused(host: str) -> None:
    with pytest.raises(AddressRefusedError):
        await AddressPolicy().check(f"https://{host}/")


async def test_a_host_that_does_not_resolve_is_refused() -> None:
    with pytest.raises(AddressRefusedError, match="does not resolve"):
        await policy().check("https://hooks.example/")


async def test_public_hosts_are_called_over_https_on_known_ports_unless_the_operator_says_otherwise() -> None:
    with pytest.raises(AddressRefusedError, match="https only"):
        await policy(PUBLIC).check("http://hooks.example/")
    await policy(PUBLIC, allow_plain_http=True).check("http://hooks.example/")
    with pytest.raises(AddressRefusedError, match="port 22"):
        await policy(PUBLIC).check("https://hooks.example:22/")
    await policy(PUBLIC, allowed_ports=[8443]).check("https://hooks.example:8443/")
    await policy(PUBLIC, allowed_hosts=["hooks.example:22"]).check("https://hooks.example:22/")


@pytest.mark.parametrize(
    ("pattern", "url", "allowed"),
    [
        ("hooks.example", "https://hooks.example/", True),
        ("HOOKS.example", "https://Hooks.Example/", True),
        ("hooks.example", "https://hooks.example./", True),
        ("hooks.example", "https://evil-hooks.example/", False),
        ("hooks.example", "https://hooks.example.evil/", False),
        ("*.example", "https://a.b.example/", True),
        ("*.example", "https://example/", False),
        ("*.example", "https://notexample/", False),
        ("hooks.example:443", "https://hooks.example/", True),
        ("hooks.example:8443", "https://hooks.example/", False),
        ("[2606:4700::1]", "https://[2606:4700::1]/", True),
        ("[2606:4700::1]:8443", "https://[2606:4700::1]:8443/", True),
    ],
)
async def test_an_allow_list_names_hosts_ports_and_whole_domains(
    pattern: str, url: str, *, allowed: bool
) -> None:
    rules = policy("2606:4700::1", allowed_hosts=[pattern])
    if allowed:
        await rules.check(url)
    else:
        with pytest.raises(AddressRefusedError, match="allowed hosts"):
            await rules.check(url)


async def test_an_allow_list_does_not_make_a_private_address_public() -> None:
    with pytest.raises(AddressRefusedError, match="private"):
        await policy("10.0.0.1", allowed_hosts=["hooks.example"]).check("https://hooks.example/")


_DISGUISES: Final[tuple[Callable[[ipaddress.IPv4Address], str], ...]] = (
    str,
    lambda four: f"::ffff:{four}",
    lambda four: str(ipaddress.IPv6Address((0x64FF9B << 96) | int(four))),
    lambda four: str(ipaddress.IPv6Address((0x2002 << 112) | (int(four) << 80) | 1)),
    lambda four: str(ipaddress.IPv6Address((0x20010000 << 96) | (int(four) ^ 0xFFFFFFFF))),
)
_INSIDE = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10")


@given(
    st.sampled_from(_INSIDE).flatmap(lambda net: st.ip_addresses(v=4, network=net)),
    st.sampled_from(_DISGUISES),
)
async def test_no_address_of_the_inside_gets_through_in_any_disguise_nor_behind_a_public_one(
    inside: ipaddress.IPv4Address, disguise: Callable[[ipaddress.IPv4Address], str]
) -> None:
    for addresses in ((disguise(inside),), (PUBLIC, disguise(inside))):
        with pytest.raises(AddressRefusedError):
            await policy(*addresses).check("https://hooks.example/")


@given(st.ip_addresses())
async def test_what_gets_through_is_global_by_every_reading(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    try:
        await policy(str(address)).check("https://hooks.example/")
    except AddressRefusedError:
        return
    if isinstance(address, ipaddress.IPv6Address):
        assert not address.is_site_local
        if address in ipaddress.ip_network("64:ff9b::/96") or address.sixtofour or address.teredo:
            return  # what it leads to is judged: the test above
        address = address.ipv4_mapped or address
    assert address.is_global
    assert not address.is_private
    assert not address.is_link_local
    assert not address.is_multicast
    assert not address.is_reserved
