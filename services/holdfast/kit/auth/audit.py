"""What is kept of a call that counts: who, what, to which thing, and how it ended; never a payload."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from holdfast.kit.ids import new_id

_NAMES: Final = frozenset({"tenant", "name", "destination", "user", "reason", "verdict", "action", "roles"})
_LONGEST: Final = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the audit; `outcome` is empty before the call acts."""

    tenant: str
    user: str
    credential: str
    action: str
    subject: Mapping[str, str] = field(default_factory=dict)
    outcome: str = ""
    call_id: UUID = field(default_factory=new_id)


def subject_of(request: Any) -> dict[str, str]:
    """Return the ids and names in a request: its own, and those one message further in."""
    found: dict[str, str] = {}
    if not hasattr(request, "DESCRIPTOR"):
        return found  # a stream: what it is about comes later
    for descriptor, value in request.ListFields():
        if descriptor.message_type is None:
            _take(found, descriptor, descriptor.name, value)
        elif hasattr(value, "ListFields"):
            for inner, one in value.ListFields():
                _take(found, inner, f"{descriptor.name}.{inner.name}", one)
    return found


def _take(found: dict[str, str], descriptor: Any, path: str, value: Any) -> None:
    name = descriptor.name
    if descriptor.message_type is not None or not (name in _NAMES or name.endswith(("_id", "_ids"))):
        return
    if descriptor.enum_type is not None and isinstance(value, int):
        known = descriptor.enum_type.values_by_number.get(value)
        text = known.name if known is not None else str(value)
    else:
        single = isinstance(value, str | int)  # some ids are numbers; what is repeated is neither
        text = str(value) if single else ",".join(str(one) for one in value)
    found[path] = text[:_LONGEST].replace("\0", "")
