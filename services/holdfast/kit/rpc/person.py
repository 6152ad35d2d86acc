"""Who calls, within the tenant: as their credential says, or without identity as the metadata does.

Without identity `holdfast-user` is one name; `holdfast-groups` and `holdfast-roles` are lists with commas
between. Such servers listen on loopback only, where whoever calls may say who they are.
"""

from dataclasses import dataclass
from typing import Any, Final

from holdfast.kit.auth.identity import current_identity
from holdfast.kit.auth.role import RUNNER
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
    identity = current_identity()
    if identity is not None:
        said = _said(context)[0]
        if any(name not in ("", identity.user) for name in (claimed, said)):
            raise TenantMismatch("caller.user is not the user of the credential.")
        return Caller(identity.user, identity.groups, identity.roles)
    user, groups, roles = _said(context)
    if claimed and user and claimed != user:
        raise TenantMismatch("caller.user is not the user of this call.")
    return _checked(user or claimed, groups, roles)


def said_caller(context: Any) -> Caller:
    """Return whom the metadata names, who may be nobody: for servers without identity."""
    user, groups, roles = _said(context)
    return _checked(user, groups, roles) if user else Caller("", frozenset(groups), frozenset(roles))


def _said(context: Any) -> tuple[str, list[str], list[str]]:
    found = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    groups, roles = (_listed(found.get(key, "")) for key in (GROUPS, ROLES))
    return found.get(USER, ""), groups, roles


def _checked(user: str, groups: list[str], roles: list[str]) -> Caller:
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


def on_behalf_of(claimed: str) -> str:
    """Return the user for whom a run is started; `claimed` is what the envelope says.

    With identity that is the user of the credential; a runner says whose child it starts. Raises
    `TenantMismatch` if the envelope names somebody else.
    """
    identity = current_identity()
    if identity is None or (identity.is_platform and RUNNER in identity.roles):
        return claimed
    if claimed not in ("", identity.user):
        raise TenantMismatch("caller.user is not the user of the credential.")
    return identity.user


def roles(context: Any) -> frozenset[str]:
    """Return the roles of whoever makes a call, who need not be named."""
    identity = current_identity()
    if identity is not None:
        return identity.roles | {OPERATOR} if identity.is_platform else identity.roles - {OPERATOR}
    found = [value for key, value in context.invocation_metadata() or () if key == ROLES]
    return frozenset(name for value in found if isinstance(value, str) for name in _listed(value))


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
