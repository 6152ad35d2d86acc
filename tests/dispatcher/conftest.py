"""What tests of the dispatcher share: a ledger, a receiver that verifies, dispatchers in this process."""

from collections.abc import AsyncIterator

import pytest

from examples.standins.webhook_receiver import WebhookReceiver
from holdfast.kit.db import Database
from tests.support.dispatching import SECRET, Dispatchers
from tests.support.outbox import open_database


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """The ledger of the test."""
    async with open_database(database_url) as db:
        yield db


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    """A stand-in for the world outside, which verifies signatures."""
    async with WebhookReceiver(secret=SECRET) as receiver:
        yield receiver


@pytest.fixture
async def dispatchers(db: Database) -> AsyncIterator[Dispatchers]:
    """Dispatchers in this process, ended with the test."""
    async with Dispatchers(db) as dispatchers:
        yield dispatchers
