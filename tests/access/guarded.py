"""A whole suite with identity, and callers of it with every kind of credential."""

import asyncio
import importlib
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from google.protobuf import descriptor_pool, message_factory

from holdfast.client import Client
from holdfast.client.channel import open_channel
from holdfast.client.errors import HoldfastError
from holdfast.client.wire_status import error_of
from holdfast.dev.suite import Suite
from holdfast.ledger.access_token import Wanted
from holdfast.ledger.bootstrap import make_token
from tests.contract.description import Rpc
from tests.support.issuer import AUDIENCE, ISSUER, Key

KEY = Key("one")
CAPABILITY_KEY = "k" * 40
AGENTS = "tests.access.agents:app"
PATIENCE = 5.0


async def token_of(
    url: str, *roles: str, tenant: str = "acme", user: str = "ada", groups: Sequence[str] = ()
) -> str:
    """Make an API token in the ledger."""
    _, secret = await make_token(url, Wanted(tenant, user, user, groups, roles))
    return secret


@dataclass
class Guarded:
    """A suite that asks everybody who they are."""

    suite: Suite
    url: str
    folder: Path
    channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)

    @property
    def addresses(self) -> Mapping[str, str]:
        """Where each service listens."""
        return self.suite.addresses

    def client(self, token: str, tenant: str | None = None) -> Client:
        """Return a client with a token."""
        at = self.addresses
        return Client(
            at["invoker"],
            tenant=tenant,
            token=token,
            dispatcher=at["dispatcher"],
            checkpoint=at["checkpoint"],
            approval=at["approval"],
        )

    async def call(
        self,
        rpc: Rpc,
        token: str | None,
        request: Any = None,
        *,
        tenant: str | None = None,
        more: Iterable[tuple[str, str]] = (),
    ) -> HoldfastError | None:
        """Make a call, by default with an empty request; return how it was refused, None if it was not.

        A stream that neither ends nor says anything within a moment was let in.
        """
        channel = self._channel(place_of(rpc.service))
        metadata = [*more]
        metadata += [("authorization", f"Bearer {token}")] if token is not None else []
        metadata += [("holdfast-tenant", tenant)] if tenant is not None else []
        request = request_of(rpc) if request is None else request
        kind: Any = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, False): channel.stream_unary,
            (True, True): channel.stream_stream,
        }[rpc.client_streaming, rpc.server_streaming]
        write: Any = type(request).SerializeToString
        given = () if rpc.client_streaming else (request,)
        dial = kind(rpc.path, write, None)

        def made() -> Any:
            return dial(*given, metadata=metadata, timeout=PATIENCE)

        told = await _ended(made(), rpc, request)
        if told is not None and told.message == _CLIENTS_OWN:
            told = await _ended(made(), rpc, None)
        return told

    def _channel(self, service: str) -> grpc.aio.Channel:
        if service not in self.channels:
            self.channels[service] = open_channel(self.addresses[service])
        return self.channels[service]


_CLIENTS_OWN = "Internal error from Core"
"""What the client itself makes of a stream that was refused while it was writing to it."""


async def _ended(call: Any, rpc: Rpc, request: Any) -> HoldfastError | None:
    """Say all there is to say, if anything, and return how the call was refused."""
    try:
        if rpc.client_streaming and request is not None:
            await call.write(request)
            await call.done_writing()
        if rpc.server_streaming:
            await call.read()
            code = await call.code() if call.done() else grpc.StatusCode.OK
            if code is not grpc.StatusCode.OK:
                return error_of(await _failure(call))
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error_of(error)
    except asyncio.InvalidStateError:
        return error_of(await _failure(call))
    finally:
        call.cancel()
    return None


async def _failure(call: Any) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        await call.code(),
        await call.initial_metadata(),
        await call.trailing_metadata(),
        details=await call.details(),
    )


def place_of(service: str) -> str:
    """Return the process that serves a service."""
    places = {"CheckpointService": "checkpoint", "ApprovalService": "approval", "OutboxService": "dispatcher"}
    return {**places, "RunnerService": "runner"}.get(service.removeprefix("holdfast.v1."), "invoker")


def request_of(rpc: Rpc, **fields: Any) -> Any:
    """Return a request of an RPC."""
    file = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", rpc.service.rpartition(".")[2]).lower()
    importlib.import_module(f"holdfast.v1.{file}_pb2")  # registers the service
    pool: Any = descriptor_pool.Default()
    method = pool.FindServiceByName(rpc.service).methods_by_name[rpc.method]
    return message_factory.GetMessageClass(method.input_type)(**fields)


@asynccontextmanager
async def guarding(
    url: str, folder: Path, *, runners: int = 1, environment: Mapping[str, str] | None = None, **shape: Any
) -> AsyncIterator[Guarded]:
    """Run a suite that takes tokens and JWTs."""
    file = folder / "keys.json"
    file.write_text(json.dumps({"keys": [KEY.jwk]}))
    told = {
        "HOLDFAST_AUTH": "token,jwt",
        "HOLDFAST_JWT_ISSUER": ISSUER,
        "HOLDFAST_JWT_AUDIENCE": AUDIENCE,
        "HOLDFAST_JWT_JWKS_FILE": str(file),
        "HOLDFAST_CAPABILITY_KEY": CAPABILITY_KEY,
        "HOLDFAST_TOKEN_CACHE": "0",
        **(environment or {}),
    }
    runner = {"HOLDFAST_TOKEN": await token_of(url, "runner", tenant="*", user="runner")}
    suite = Suite(
        [AGENTS],
        database_url=url,
        runners=runners,
        environment=told,
        environments={"runner": runner},
        **shape,
    )
    async with suite:
        guarded = Guarded(suite, url, folder)
        try:
            yield guarded
        finally:
            for channel in guarded.channels.values():
                await channel.close()


async def fetch(url: str, query: str, *arguments: Any) -> list[Any]:
    """Read the ledger as its owner."""
    connection = await asyncpg.connect(url, server_settings={"search_path": "holdfast"})
    try:
        return await connection.fetch(query, *arguments)  # type: ignore[no-any-return]
    finally:
        await connection.close()
