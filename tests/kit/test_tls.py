"""TLS: whom is trusted, who must show what, and certificates that are replaced while servers run."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc

from holdfast.client import Tls as ClientTls
from holdfast.kit.auth.access import Access
from holdfast.kit.auth.tls import Tls
from holdfast.kit.rpc.channels import Channels
from holdfast.kit.rpc.client import channel
from holdfast.kit.rpc.server import Server
from holdfast.kit.settings import SettingsError
from tests.kit.echo import Echo, EchoStub, serving
from tests.support.certificate import Authority

HELLO = StringValue(value="hello")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def server(authority: Authority) -> AsyncIterator[Server]:
    """A server that asks for certificates of the authority's, and tells its health in plaintext."""
    cert, key = authority.issue("server")
    tls = Tls(cert, key, authority.ca, authority.ca)
    async with serving(Echo(), access=Access(tls=tls, health_listen="127.0.0.1:0")) as one:
        yield one


async def said(over: grpc.aio.Channel) -> str:
    answer: StringValue = await EchoStub(over).one(HELLO, timeout=5)
    return answer.value


async def test_services_speak_when_both_show_a_certificate_of_the_authority(
    server: Server, authority: Authority
) -> None:
    cert, key = authority.issue("runner")
    over = Channels([server.address], Tls(cert, key, authority.ca))
    assert await said(over[0]) == "hello"
    await over.close()
    credentials = ClientTls(authority.ca, cert, key).credentials()
    async with channel(server.address, credentials=credentials) as one:
        assert await said(one) == "hello"


async def test_who_shows_none_or_anothers_is_not_let_in(
    server: Server, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    for tls in (
        ClientTls(authority.ca),
        ClientTls(authority.ca, *other.issue("eve")),
        ClientTls(other.ca, *authority.issue("runner")),
    ):
        async with channel(server.address, credentials=tls.credentials()) as over:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await said(over)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    async with channel(server.address) as plain:
        with pytest.raises(grpc.aio.AioRpcError):
            await said(plain)


async def test_certificates_are_replaced_while_both_run(
    server: Server, authority: Authority, tmp_path: Path
) -> None:
    cert, key = authority.issue("runner")
    over = Channels([server.address], Tls(cert, key, authority.ca))
    assert await said(over[0]) == "hello"
    first = over[0]
    fresh = Authority(tmp_path, "fresh")  # even the authority is another
    authority.ca.write_bytes(fresh.ca.read_bytes())
    fresh.issue("server")
    fresh.issue("runner")
    assert over[0] is not first
    assert await said(over[0]) == "hello"
    assert await said(first) == "hello"  # a connection that stands goes on
    await over.close()


async def test_a_key_that_is_empty_while_it_is_written_ends_nobody(
    server: Server, authority: Authority
) -> None:
    cert, key = authority.issue("runner")
    over = Channels([server.address], Tls(cert, key, authority.ca))
    first = over[0]
    key.write_bytes(b"")
    assert over[0] is first
    assert await said(first) == "hello"
    await over.close()
    with pytest.raises(SettingsError, match=r"runner.* cannot be read: it is empty"):
        Channels([server.address], Tls(cert, key, authority.ca))
    with pytest.raises(ValueError, match=r"runner.* is empty"):
        ClientTls(authority.ca, cert, key).credentials()


async def test_health_is_told_in_plaintext_beside_tls(authority: Authority) -> None:
    tls = Tls(*authority.issue("server"))
    access = Access(tls=tls, health_listen="127.0.0.1:0")
    async with serving(Echo(), access=access) as server, channel(server.health_address) as over:
        answer = await health_pb2_grpc.HealthStub(over).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await said(over)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
