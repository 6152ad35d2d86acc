"""The Envoy of deploy/envoy passes what clients do, refuses the rest as gRPC does, and sees who is alive."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import pytest

from holdfast.client import Client, Retries, Tls
from holdfast.client.errors import Unavailable
from holdfast.kit.auth.rule import RULES
from holdfast.v1 import approval_service_pb2, invoker_service_pb2, invoker_service_pb2_grpc
from tests.access.guarded import Guarded, guarding, token_of
from tests.deploy.test_route import for_clients
from tests.kit.until import until
from tests.support.certificate import Authority
from tests.support.envoy_server import Envoy, configuration, envoy, needs_envoy

pytestmark = [needs_envoy, pytest.mark.timeout(300)]
PATIENCE = 30.0
LIST = "/holdfast.v1.InvokerService/ListRuns"
CHECK = "/grpc.health.v1.Health/Check"


@dataclass(frozen=True, slots=True)
class Front:
    """A suite that speaks mutual TLS, behind an Envoy."""

    guarded: Guarded
    envoy: Envoy
    tls: Tls
    token: str

    def client(self, **more: Any) -> Client:
        """Return a client that knows one address for everything."""
        at = self.envoy.address
        return Client(at, token=self.token, tls=self.tls, dispatcher=at, checkpoint=at, approval=at, **more)

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """Open a channel for a block."""
        options = [("grpc.max_send_message_length", -1)]  # a client that knows no bound
        async with grpc.aio.secure_channel(self.envoy.address, self.tls.credentials(), options) as channel:
            yield channel

    def metadata(self, *more: tuple[str, str]) -> list[tuple[str, str]]:
        """Return what a call says of its caller, and more."""
        return [("authorization", f"Bearer {self.token}"), *more]

    async def code(self, path: str, body: bytes = b"", *more: tuple[str, str]) -> grpc.StatusCode:
        """Make a call and return how it ended."""
        async with self.channel() as channel:
            call: Any = channel.unary_unary(path)
            try:
                await call(body, metadata=self.metadata(*more), timeout=PATIENCE)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK


@pytest.fixture
async def guarded(database_url: str, tmp_path: Path) -> AsyncIterator[Guarded]:
    """Run the services, which speak to nobody without a certificate, Envoy's among them."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("service")
    told = {
        "HOLDFAST_TLS_CERT_FILE": str(cert),
        "HOLDFAST_TLS_KEY_FILE": str(key),
        "HOLDFAST_TLS_CA_FILE": str(authority.ca),
        "HOLDFAST_TLS_CLIENT_CA_FILE": str(authority.ca),
    }
    _hold(tmp_path / "holdfast", authority)
    async with guarding(database_url, tmp_path, environment=told, supervise=False) as guarded:
        yield guarded


@asynccontextmanager
async def fronted(
    guarded: Guarded, replaced: Mapping[str, str] = MappingProxyType({}), *, alive: int = 4
) -> AsyncIterator[Front]:
    """Run Envoy before the services, with a certificate that clients trust, until it finds so many alive."""
    authority = Authority(guarded.folder, "public")
    _hold(guarded.folder / "tls", authority)
    token = await token_of(guarded.url, "invoke", "read", "operate", "admin")
    config = configuration(guarded.folder, guarded.addresses, replaced)
    async with envoy(guarded.folder, config) as proxy:
        front = Front(guarded, proxy, Tls(authority.ca), token)
        await until(lambda: _alive(proxy, alive), deadline=PATIENCE)
        yield front


def _hold(folder: Path, authority: Authority) -> None:
    """Write a certificate as Kubernetes mounts a secret."""
    folder.mkdir()
    cert, key = authority.issue("envoy")
    (folder / "tls.crt").write_bytes(cert.read_bytes())
    (folder / "tls.key").write_bytes(key.read_bytes())
    (folder / "ca.crt").write_bytes(authority.ca.read_bytes())


async def _alive(proxy: Envoy, clusters: int) -> bool:
    found = await proxy.statistics(r"cluster\.\w*\.membership_healthy")
    return sum(found.values()) == clusters


async def _counted(proxy: Envoy, pattern: str) -> bool:
    return sum((await proxy.statistics(pattern)).values()) > 0


async def test_what_clients_do_passes_through_one_address(guarded: Guarded) -> None:
    async with fronted(guarded) as front, front.client() as client:
        handle = await client.invoke("add", {"number": 1})
        assert await handle.result(patience=PATIENCE) == 2
        assert [one async for one in client.list_checkpoints(handle.run_id)]
        assert [one async for one in client.approvals().list()] == []
        assert [one async for one in client.outbox.list_destinations()] == []


async def test_a_conversation_speaks_both_ways_on_one_stream_token_by_token(guarded: Guarded) -> None:
    pb: Any = invoker_service_pb2
    async with fronted(guarded) as front, front.channel() as channel, asyncio.timeout(PATIENCE):
        stub: Any = invoker_service_pb2_grpc.InvokerServiceStub(channel)
        call = stub.Converse(metadata=front.metadata())
        invocation = pb.InvokeRequest(intent="echo", payload={"word": "yes?"})
        await call.write(pb.ConverseRequest(start=pb.ConverseStart(invocation=invocation)))
        await _token(call, "yes?")  # before anything more is said
        await call.write(pb.ConverseRequest(input=pb.ConverseInput(payload={"string_value": "well"})))
        await _token(call, "well")
        while not (await call.read()).event.HasField("ended"):
            pass
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK


async def _token(call: Any, text: str) -> None:
    while (await call.read()).event.token.text != text:
        pass


async def test_only_what_clients_call_gets_in_and_nobody_says_who_they_are(guarded: Guarded) -> None:
    async with fronted(guarded) as front:
        inner = set(RULES) - set(for_clients())
        assert len(inner) > 5
        for path in (*inner, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/holdfast.v1.X/Y"):
            assert await front.code(path) is grpc.StatusCode.UNIMPLEMENTED, path
        # The service would refuse a name that is not the credential's.
        of_mine = approval_service_pb2.ApprovalFilter(mine=True)
        mine = approval_service_pb2.ListApprovalsRequest(filter=of_mine).SerializeToString()
        path = "/holdfast.v1.ApprovalService/ListApprovals"
        assert await front.code(path, mine, ("holdfast-user", "eve")) is grpc.StatusCode.OK
        stranger = Tls(Authority(guarded.folder, "other").ca)
        nobody = Client(front.envoy.address, token=front.token, tls=stranger, retries=Retries(attempts=1))
        async with nobody:
            with pytest.raises(Unavailable):
                await nobody.get_run("0d4a1f0e-6a51-4b6e-9c53-0a4d4c1f7e01")


async def test_what_is_too_large_is_refused_with_a_status(guarded: Guarded) -> None:
    async with fronted(guarded) as front:
        taken = ([("x-large", "x" * 15_000)], [(f"x-{n}", "x") for n in range(120)])
        for more in taken:
            assert await front.code(LIST, b"", *more) is grpc.StatusCode.OK
        # By the service, as it would without Envoy: Envoy's own bound ends a stream without saying why.
        assert await front.code(LIST, b"", ("x-large", "x" * 50_000)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await front.code(LIST, b"x" * 5_000_000) is grpc.StatusCode.RESOURCE_EXHAUSTED
        far = await front.code(LIST, b"", ("x-large", "x" * 100_000))
        assert far in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
        assert await front.code(LIST) is grpc.StatusCode.OK


async def test_what_comes_too_often_is_refused_with_a_status(guarded: Guarded) -> None:
    many = "max_tokens: 10000, tokens_per_fill: 5000, fill_interval: 1s"
    few = {many: "max_tokens: 2, tokens_per_fill: 1, fill_interval: 3600s"}
    async with fronted(guarded, few) as front:
        codes = [await front.code(LIST) for _ in range(3)]
        assert codes == [grpc.StatusCode.OK] * 2 + [grpc.StatusCode.RESOURCE_EXHAUSTED]


async def test_who_shows_the_name_of_somebody_else_is_not_called(guarded: Guarded) -> None:
    port = guarded.addresses["invoker"].rpartition(":")[2]
    other = {f"address: localhost, port_value: {port}": f"address: other.localhost, port_value: {port}"}
    async with fronted(guarded, other, alive=3) as front:
        failed = r"cluster\.invoker\.ssl\.fail_verify_san"
        await until(lambda: _counted(front.envoy, failed), deadline=PATIENCE)
        assert await front.code(LIST) is grpc.StatusCode.UNAVAILABLE


async def test_who_is_down_is_known_and_who_is_back_is_called_again(guarded: Guarded) -> None:
    invoker = guarded.suite.processes["invoker"]
    await invoker.stop()
    async with fronted(guarded, alive=3) as front:
        for path in (LIST, CHECK):
            assert await front.code(path) is grpc.StatusCode.UNAVAILABLE
        await invoker.start()
        await until(lambda: _alive(front.envoy, 4), deadline=PATIENCE)
        for path in (LIST, CHECK):
            assert await front.code(path) is grpc.StatusCode.OK
        await invoker.stop()
        await until(lambda: _alive(front.envoy, 3), deadline=PATIENCE)
