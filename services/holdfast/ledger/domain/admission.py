"""Where an accepted invocation waits, or that it does not: straight to a runner, the queue, or refused.

A lane (an ordering key in use) is taken by the first run that comes, also one that is delayed: runs of a key
execute in order of admission, so those behind it wait.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

LIGHT: Final = 16
"""From so many runs in flight a tenant takes its turns as all do."""


class Where(IntEnum):
    """Where a run is put at admission."""

    RUNNER = 1
    READY = 2
    BLOCKED = 3
    DELAYED = 4
    REFUSED = 5


@dataclass(frozen=True, slots=True)
class Room:
    """A tenant's counters and caps at the moment its queue was locked."""

    in_flight: int
    max_in_flight: int
    queued: int
    max_queued: int


class Door:
    """One tenant's queue while a group of invocations passes through it, one after the other."""

    def __init__(self, room: Room, lanes_held: Collection[str] = ()) -> None:
        self.room = room
        self.in_flight = room.in_flight
        self.queued = room.queued
        self._held = set(lanes_held)

    @property
    def light(self) -> bool:
        """Nothing of the tenant waits, and little of it runs: in any ring it is next."""
        return not self.queued and self.in_flight < LIGHT

    @property
    def capped(self) -> bool:
        """The tenant can have nothing more leased."""
        return self.in_flight >= self.room.max_in_flight

    def hold(self, ordering_key: str) -> None:
        """Note that a run from before holds the key's lane."""
        self._held.add(ordering_key)

    def may_lease(self, *, ordering_key: str, delayed: bool) -> bool:
        """Say whether a run may go straight to a runner, if one is free."""
        return not self.capped and not delayed and ordering_key not in self._held

    def enter(self, *, ordering_key: str, delayed: bool, to_runner: bool) -> Where:
        """Let a run in and say where it is put; `to_runner` only after `may_lease`."""
        if not to_runner and self.queued >= self.room.max_queued:
            return Where.REFUSED
        behind = ordering_key in self._held
        if ordering_key:
            self._held.add(ordering_key)
        if to_runner:
            self.in_flight += 1
            return Where.RUNNER
        self.queued += 1
        if behind:
            return Where.BLOCKED
        return Where.DELAYED if delayed else Where.READY
