"""A destination is a name in a tenant: where effects go, how they are called, and their shared breaker."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from holdfast.kit.errors import DestinationNotFound
from holdfast.ledger.domain.breaker import Breaker, BreakerPolicy, BreakerState
from holdfast.ledger.domain.delivery import DeliveryMode, RetryPolicy

DEFAULT_RETRIES_PER_SECOND: Final = 100.0
_MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where effects of a tenant go, and how it is called; an empty `secret_name` means no signature.

    `status_url`, with `{key}` for the idempotency key, is asked in the mode CONFIRM; empty otherwise.
    """

    tenant: str
    name: str
    url: str
    secret_name: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    max_concurrent: int = 16
    max_per_second: float = 0.0
    timeout_s: float = 10.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    mode: DeliveryMode = DeliveryMode.AT_LEAST_ONCE
    breaker_policy: BreakerPolicy = field(default_factory=BreakerPolicy)
    destination_id: int = 0
    status_url: str = ""
    max_retries_per_second: float = DEFAULT_RETRIES_PER_SECOND


@dataclass(frozen=True, slots=True)
class DestinationView:
    """A destination with its breaker as it stands."""

    destination: Destination
    breaker: Breaker


_PUT: Final = """
-- Make a destination or change it; its breaker stays as it is.
WITH put AS (
    INSERT INTO destination AS d (tenant, name, url, secret_name, headers, max_concurrent, max_per_second,
        timeout_ms, max_attempts, initial_backoff_ms, max_backoff_ms, delivery_mode, breaker_failures,
        breaker_reset_ms, status_url, max_retries_per_second)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
    ON CONFLICT (tenant, name) DO UPDATE SET
        url = EXCLUDED.url, secret_name = EXCLUDED.secret_name, headers = EXCLUDED.headers,
        max_concurrent = EXCLUDED.max_concurrent, max_per_second = EXCLUDED.max_per_second,
        timeout_ms = EXCLUDED.timeout_ms, max_attempts = EXCLUDED.max_attempts,
        initial_backoff_ms = EXCLUDED.initial_backoff_ms, max_backoff_ms = EXCLUDED.max_backoff_ms,
        delivery_mode = EXCLUDED.delivery_mode, breaker_failures = EXCLUDED.breaker_failures,
        breaker_reset_ms = EXCLUDED.breaker_reset_ms, status_url = EXCLUDED.status_url,
        max_retries_per_second = EXCLUDED.max_retries_per_second, update_time = clock_timestamp()
    RETURNING destination_id
)
INSERT INTO destination_state (destination_id) SELECT destination_id FROM put
ON CONFLICT (destination_id)
DO UPDATE SET next_call_time = clock_timestamp(), next_retry_time = clock_timestamp()
-- the old rates say nothing
"""


async def put(connection: Any, destination: Destination) -> DestinationView:
    """Make a destination or change it, and return it as it stands. Repeatable."""
    await connection.execute(
        _PUT,
        destination.tenant,
        destination.name,
        destination.url,
        destination.secret_name,
        json.dumps(dict(destination.headers)),
        destination.max_concurrent,
        destination.max_per_second,
        _milliseconds(destination.timeout_s),
        destination.retry.max_attempts,
        _milliseconds(destination.retry.initial_backoff_s),
        _milliseconds(destination.retry.max_backoff_s),
        int(destination.mode),
        destination.breaker_policy.failures,
        max(1, destination.breaker_policy.reset_after // _MILLISECOND),
        destination.status_url,
        destination.max_retries_per_second,
    )
    return await get(connection, destination.tenant, destination.name)


_READ: Final = """
SELECT d.destination_id, d.tenant, d.name, d.url, d.secret_name, d.headers, d.max_concurrent,
       d.max_per_second, d.timeout_ms, d.max_attempts, d.initial_backoff_ms, d.max_backoff_ms,
       d.delivery_mode, d.breaker_failures, d.breaker_reset_ms, d.status_url, d.max_retries_per_second,
       s.breaker, s.failures, s.open_time, s.probe_time
FROM destination d JOIN destination_state s USING (destination_id)
"""
_GET: Final = "-- Read a destination.\n" + _READ + "WHERE d.tenant = $1 AND d.name = $2"
_PAGE: Final = (
    "-- Read a page of destinations.\n"
    + _READ
    + "WHERE d.tenant = $1 AND d.name > $2 ORDER BY d.name LIMIT $3"
)


async def get(connection: Any, tenant: str, name: str) -> DestinationView:
    """Read a destination. Raises `DestinationNotFound`, also for another tenant's."""
    row = await connection.fetchrow(_GET, tenant, name)
    if row is None:
        raise DestinationNotFound(f"There is no destination {name!r}.", facts={"destination": name})
    return DestinationView(destination_of(row), breaker_of(row))


async def page(connection: Any, tenant: str, after_name: str, limit: int) -> list[DestinationView]:
    """Read destinations by name, those after `after_name`."""
    rows: Sequence[Any] = await connection.fetch(_PAGE, tenant, after_name, limit)
    return [DestinationView(destination_of(row), breaker_of(row)) for row in rows]


_RESET: Final = """
-- Close a destination's breaker; a probe under way no longer decides.
UPDATE destination_state s SET breaker = 1, failures = 0, open_time = NULL, probe_time = NULL
FROM destination d WHERE d.destination_id = s.destination_id AND d.tenant = $1 AND d.name = $2
"""


async def reset_breaker(connection: Any, tenant: str, name: str) -> DestinationView:
    """Close the breaker, so that the destination is called. Repeatable; raises `DestinationNotFound`."""
    await connection.execute(_RESET, tenant, name)
    return await get(connection, tenant, name)


def destination_of(row: Any) -> Destination:
    """Read a destination out of a row that has its columns."""
    return Destination(
        tenant=row["tenant"],
        name=row["name"],
        url=row["url"],
        secret_name=row["secret_name"],
        headers=json.loads(row["headers"]),
        max_concurrent=row["max_concurrent"],
        max_per_second=row["max_per_second"],
        timeout_s=row["timeout_ms"] / 1000,
        retry=RetryPolicy(
            row["max_attempts"], row["initial_backoff_ms"] / 1000, row["max_backoff_ms"] / 1000
        ),
        mode=DeliveryMode(row["delivery_mode"]),
        breaker_policy=BreakerPolicy(row["breaker_failures"], row["breaker_reset_ms"] * _MILLISECOND),
        destination_id=row["destination_id"],
        status_url=row["status_url"],
        max_retries_per_second=row["max_retries_per_second"],
    )


def breaker_of(row: Any) -> Breaker:
    """Read a breaker out of a row that has its columns."""
    return Breaker(BreakerState(row["breaker"]), row["failures"], row["open_time"], row["probe_time"])


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
