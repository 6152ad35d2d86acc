"""What servers ask of the ledger about their callers, and tell it of their deeds."""

from holdfast.kit.auth.access import Access, access_of
from holdfast.kit.auth.audit import Entry
from holdfast.kit.auth.identity import Identity
from holdfast.kit.auth.settings import AccessSettings
from holdfast.kit.db import Database
from holdfast.ledger import access_token, audit


def ledger_access(db: Database, settings: AccessSettings) -> Access:
    """Return the access of a server whose tokens and audit are in this ledger."""

    async def find(hashed: bytes) -> Identity | None:
        async with db.connection() as connection:
            return await access_token.find(connection, hashed)

    async def write(entry: Entry) -> None:
        async with db.connection() as connection:
            await audit.write(connection, entry)

    return access_of(settings, find=find, audit=write)
