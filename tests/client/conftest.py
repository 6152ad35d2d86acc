"""A scripted server and a client of it."""

from collections.abc import AsyncIterator

import pytest

from holdfast.client import Client, Retries
from tests.client.contract_server import ContractServer, contract_server

QUICK = Retries(attempts=5, first_pause=0.01, longest_pause=0.05, patience=5)


@pytest.fixture
async def server() -> AsyncIterator[ContractServer]:
    async with contract_server() as running:
        yield running


@pytest.fixture
async def client(server: ContractServer) -> AsyncIterator[Client]:
    async with Client(server.address, dispatcher=server.address, tenant="acme", retries=QUICK) as one:
        yield one
