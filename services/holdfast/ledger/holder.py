"""Who holds a run: whom to tell what has become of it."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Holder:
    """The runner that holds a run, and under which epoch."""

    session_id: UUID
    address: str
    epoch: int
