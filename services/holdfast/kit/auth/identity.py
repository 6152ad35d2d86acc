"""Who calls, as a credential says it; whatever is known here was proved."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from holdfast.kit.auth.role import HOLDS

EVERY: Final = "*"
"""The tenant of a credential that is the platform's: its calls name the tenant they are for."""

LONGEST: Final = 255


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller: whose tenant, who, in which groups and roles, and by what it was proved.

    `expires` is when the credential ends, in seconds since the epoch; None: it does not.
    """

    tenant: str
    user: str
    groups: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    credential: str = ""
    expires: float | None = None

    @property
    def is_platform(self) -> bool:
        """Whether the credential may name any tenant."""
        return self.tenant == EVERY

    @property
    def held(self) -> frozenset[str]:
        """What the roles hold together."""
        return frozenset().union(*(HOLDS.get(role, frozenset()) for role in self.roles))


_identity: ContextVar[Identity | None] = ContextVar("holdfast_identity", default=None)


def current_identity() -> Identity | None:
    """Return who makes the call that this task serves; None without identity."""
    return _identity.get()


def enter(identity: Identity) -> None:
    """Take this task's call for one of `identity`."""
    _identity.set(identity)


def is_name(text: object, *, empty: bool = False) -> bool:
    """Say whether a credential may name somebody so: 1 to 255 bytes, printable, no space at its ends."""
    if not isinstance(text, str):
        return False
    size = len(text.encode(errors="replace"))
    return (empty or size > 0) and size <= LONGEST and text.isprintable() and text == text.strip()
