"""The first token comes from whoever owns the database: nobody else could vouch for it."""

import asyncpg

from holdfast.kit.auth.token import hash_of, new_secret
from holdfast.ledger import access_token
from holdfast.ledger.access_token import TokenView, Wanted
from holdfast.ledger.session_settings import SESSION_SETTINGS


async def make_token(database_url: str, wanted: Wanted) -> tuple[TokenView, str]:
    """Make a token, and return it with its secret. Not repeatable: each is another.

    Raises `asyncpg.PostgresError` or `OSError` if the database cannot be used.
    """
    connection = await asyncpg.connect(database_url, server_settings=dict(SESSION_SETTINGS))
    try:
        secret = new_secret()
        return await access_token.create(connection, wanted, hash_of(secret), by="bootstrap"), secret
    finally:
        await connection.close()
