"""The quick way in: runs that all go straight to idle runners, admitted by one statement.

What the thorough way decides step by step under the tenants' locks, the statement asks all at once: either
nothing speaks against any run of the group, or nothing is done and the thorough way begins.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import asyncpg

from holdfast.kit.db import Access
from holdfast.ledger import admission_sql as sql
from holdfast.ledger.admission_column import asked
from holdfast.ledger.admission_group import Answer, Placements, Server, lease_of
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.values import Admitted, Invocation, limits_of, pool_of


async def place(db: Access, invocations: Sequence[Invocation], placements: Placements) -> list[Answer] | None:
    """Admit the group and lease every run of it; None if it takes the thorough way, and nothing was done.

    A crash admits all or none. Locks the tenants, then the sessions.
    """
    servers = seated(invocations, placements)
    if servers is None:
        return None
    runs_of = Counter(i.tenant for i in invocations)
    columns = zip(
        *(
            asked(i, pool_of(i.intent, s.agent_version), s.agent_version, s.session_id, i.limits)
            for i, s in zip(invocations, servers, strict=True)
        ),
        strict=True,
    )
    try:
        async with db.connection() as connection:
            rows = await connection.fetch(
                sql.PLACE,
                *map(list, columns),
                list(runs_of),
                list(runs_of.values()),
                list({server.session_id for server in servers}),
                list({pool_of(i.intent, i.agent_version) for i in invocations}),
            )
    except asyncpg.UniqueViolationError:
        return None  # a key or an id was taken at the same moment
    if not rows:
        return None
    return [_answer(i, s, row) for i, s, row in zip(invocations, servers, rows, strict=True)]


def seated(invocations: Sequence[Invocation], placements: Placements) -> list[Server] | None:
    """Choose a runner for each; None unless each can have one and nothing else is to be decided about any."""
    keys = {(i.tenant, i.idempotency_key) for i in invocations}
    if len(keys) < len(invocations) or len({i.run_id for i in invocations}) < len(invocations):
        return None
    credit = dict(placements.credit)
    servers: list[Server] = []
    for each in invocations:
        if each.lane or each.not_before is not None or each.handoff is not None:
            return None
        server = placements.idlest(pool_of(each.intent, each.agent_version), credit)
        if server is None:
            return None
        credit[server.session_id] -= 1
        servers.append(server)
    return servers


def _answer(invocation: Invocation, server: Server, row: Any) -> Admitted:
    limits = limits_of(row)
    return Admitted(
        invocation.run_id,
        True,
        RunStatus.RUNNING,
        pool_of(invocation.intent, server.agent_version),
        row["seq"],
        row["now"],
        row["deadline_time"],
        limits,
        lease_of(invocation, server, limits, row["now"]),
    )
