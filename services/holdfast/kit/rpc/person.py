"""Who calls, within the tenant: named by the call's metadata until identity names them.

`holdfast-user` is one name; `holdfast-groups` and `holdfast-roles` are lists with commas between. Servers
without identity listen on loopback only, where whoever calls may say who they are.
"""

from dataclasses import dataclass
from typing import Any, Final

from holdfast.kit.errors import InvalidField, TenantMismatch, Violation

USER: Final = "holdfast-user"
GROUPS: Final = "holdfast-groups"
ROLES: Final = "holdfast-roles"
LONGEST: Final = 255
OPERATOR: Final = "operator"
"""The role of those who look after the platform: they see all tenants, and set their limits."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A person, and the groups and roles they have."""

    user: str
    groups: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()


def caller(context: Any, claimed: str = "") -> Caller:
    """Return who makes a call; `claimed` is what the request says, which must agree with the metadata.

    Raises `InvalidField` if nobody is named or a name is malformed, `TenantMismatch` for two different ones.
    """
    found = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    named = found.get(USER, "")
    if claimed and named and claimed != named:
        raise TenantMismatch("caller.user is not the user of this call.")
    user = named or claimed
    groups, roles = (_listed(found.get(key, "")) for key in (GROUPS, ROLES))
    wrong = [
        Violation(field, f"must be 1 to {LONGEST} bytes of printable text")
        for field, names in (
            (f"metadata.{USER}", [user]),
            (f"metadata.{GROUPS}", groups),
            (f"metadata.{ROLES}", roles),
        )
        if any(not name.isprintable() or not 0 < len(name.encode()) <= LONGEST for name in names)
    ]
    if wrong:
        raise InvalidField("The call does not say well who calls.", violations=wrong)
    return Caller(user, frozenset(groups), frozenset(roles))


def roles(context: Any) -> frozenset[str]:
    """Return the roles of whoever makes a call, who need not be named."""
    found = [value for key, value in context.invocation_metadata() or () if key == ROLES]
    return frozenset(name for value in found if isinstance(value, str) for name in _listed(value))


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
