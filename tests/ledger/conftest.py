"""A ledger of its own for each test of the ledger's verbs."""

from collections.abc import AsyncIterator

import pytest

from holdfast.kit.db import Database
from tests.support.ledger import open_ledger


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with open_ledger(database_url) as db:
        yield db
