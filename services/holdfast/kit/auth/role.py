"""What callers may be allowed, and what one allowance holds of others."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

READ: Final = "read"
"""Sees what the tenant has."""
INVOKE: Final = "invoke"
"""Starts runs, talks with them, and stops them."""
APPROVE: Final = "approve"
"""Decides gates, where a gate's policy lets them."""
OPERATE: Final = "operate"
"""Looks after what runs: retries, pauses, discards, destinations."""
ADMIN: Final = "admin"
"""Does all that a person may, and makes tokens."""
RUNNER: Final = "runner"
"""Takes work and records it; no person's role, and held by no other."""

SCALER: Final = "scaler"
"""Sees how much work waits, of all tenants together, and nothing else: for what decides how many run."""

PEOPLE: Final = (READ, INVOKE, APPROVE, OPERATE, ADMIN)
ROLES: Final = (*PEOPLE, RUNNER, SCALER)
"""The roles that rules speak of; credentials may have others, which approvals know."""

HOLDS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        READ: frozenset({READ}),
        INVOKE: frozenset({INVOKE, READ}),
        APPROVE: frozenset({APPROVE, READ}),
        OPERATE: frozenset({OPERATE, READ}),
        ADMIN: frozenset(PEOPLE),
        RUNNER: frozenset({RUNNER}),
        SCALER: frozenset({SCALER}),
    }
)
"""What each role holds; nothing else is held."""
