"""API tokens: made once, found by their hash, ended by a person or by time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from holdfast.kit.auth.identity import Identity
from holdfast.kit.db import Connection
from holdfast.kit.errors import TokenNotFound
from holdfast.kit.ids import new_id

_SHOWN: Final = (
    "token_id, tenant, name, username, groups, roles, create_time, create_user, expire_time, revoke_time"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A token to be made; `ttl` in seconds, None: it does not end by itself."""

    tenant: str
    name: str
    user: str
    groups: Sequence[str]
    roles: Sequence[str]
    ttl: float | None = None


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token without its secret."""

    token_id: UUID
    tenant: str
    name: str
    user: str
    groups: Sequence[str]
    roles: Sequence[str]
    create_time: datetime
    create_user: str
    expire_time: datetime | None
    revoke_time: datetime | None


CREATE: Final = f"""
INSERT INTO access_token (token_id, hash, tenant, name, username, groups, roles, create_user, expire_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp() + make_interval(secs => $9))
RETURNING {_SHOWN}
"""  # noqa: S608 - a constant of ours

FIND: Final = """
SELECT token_id, tenant, username, groups, roles, extract(epoch FROM expire_time)::float8 AS expires
FROM access_token
WHERE hash = $1 AND revoke_time IS NULL AND (expire_time IS NULL OR expire_time > clock_timestamp())
"""

PAGE: Final = f"""
SELECT {_SHOWN} FROM access_token WHERE tenant = $1 AND token_id > $2 ORDER BY token_id LIMIT $3
"""  # noqa: S608 - a constant of ours

REVOKE: Final = f"""
UPDATE access_token SET revoke_time = coalesce(revoke_time, clock_timestamp())
WHERE token_id = $1 AND tenant = $2
RETURNING {_SHOWN}
"""  # noqa: S608 - a constant of ours


async def create(connection: Connection, wanted: Wanted, hashed: bytes, *, by: str) -> TokenView:
    """Keep a token by its hash; `by` is who makes it. Not repeatable: each is another."""
    row = await connection.fetchrow(
        CREATE,
        new_id(),
        hashed,
        wanted.tenant,
        wanted.name,
        wanted.user,
        list(wanted.groups),
        list(wanted.roles),
        by,
        wanted.ttl,
    )
    return _view(row)


async def find(connection: Connection, hashed: bytes) -> Identity | None:
    """Return who has the token of this hash, None unless it holds now."""
    row = await connection.fetchrow(FIND, hashed)
    if row is None:
        return None
    return Identity(
        tenant=row["tenant"],
        user=row["username"],
        groups=frozenset(row["groups"]),
        roles=frozenset(row["roles"]),
        credential=f"token:{row['token_id']}",
        expires=row["expires"],
    )


async def page(connection: Connection, tenant: str, *, after: UUID, limit: int) -> list[TokenView]:
    """Return the tokens of a tenant, ended ones too, oldest first."""
    return [_view(row) for row in await connection.fetch(PAGE, tenant, after, limit)]


async def revoke(connection: Connection, tenant: str, token_id: UUID) -> TokenView:
    """End a token. Repeatable. Raises `TokenNotFound`."""
    row = await connection.fetchrow(REVOKE, token_id, tenant)
    if row is None:
        raise TokenNotFound("The tenant has no such token.", facts={"token_id": str(token_id)})
    return _view(row)


def _view(row: Any) -> TokenView:
    return TokenView(
        row["token_id"],
        row["tenant"],
        row["name"],
        row["username"],
        row["groups"],
        row["roles"],
        row["create_time"],
        row["create_user"],
        row["expire_time"],
        row["revoke_time"],
    )
