"""Fixtures of the Checkpoint service."""

from collections.abc import AsyncIterator

import pytest

from holdfast.kit.db import Database
from holdfast.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub
from tests.support.checkpoint import checkpoint_process
from tests.support.commit import Floor, open_ledger


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with open_ledger(database_url) as db:
        yield db


@pytest.fixture
async def floor(db: Database) -> Floor:
    return await Floor(db).open()


@pytest.fixture
async def stub(database_url: str) -> AsyncIterator[CheckpointServiceStub]:
    async with checkpoint_process(database_url) as checkpoint, checkpoint.stub() as stub:
        yield stub
