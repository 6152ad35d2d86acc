"""What a stream of a run yields: events in order, and the two corrections that keep the order true."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from holdfast.client.run import Run


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened in a run.

    `kind` is the name of the contract's event (`token`, `step_finished`, `ended`, …), `data` its fields by
    name: enums as words, times as datetimes, durations as seconds. An event of a kind this release does not
    know comes with kind `unknown` and still has its place.
    """

    run_id: str
    sequence: int
    kind: str
    data: Mapping[str, Any]
    epoch: int = 0
    attempt: int = 0
    step: str = ""
    time: datetime | None = None

    @property
    def text(self) -> str:
        """What was said, of a `said` or `token`; empty for the others."""
        return str(self.data.get("text", "")) if self.kind in {"said", "token"} else ""


@dataclass(frozen=True, slots=True)
class Rewound:
    """Events after `to_sequence` died with their runner: forget them, what follows replaces them."""

    run_id: str
    to_sequence: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Events are no longer kept: the run as it is stands for all up to `sequence`; others come after.

    Comes only for runs that ended long ago. Code that appends events and obeys `Rewound` may pass it over:
    what it holds is then not whole.
    """

    run: Run
    sequence: int


@dataclass(frozen=True, slots=True)
class Started:
    """The run a conversation follows from here on."""

    run: Run
    reattached: bool


Update = Event | Rewound | Snapshot
"""What a watcher gets."""


@dataclass(slots=True)
class Cursor:
    """Where a watcher is: the last event it has, and under which lease that was produced."""

    sequence: int = 0
    epoch: int = 0
    ended: bool = False

    def move(self, update: Update) -> None:
        """Go on to an update."""
        if isinstance(update, Event):
            self.sequence, self.epoch = update.sequence, update.epoch
            self.ended = update.kind == "ended"
        elif isinstance(update, Rewound):
            self.sequence, self.epoch, self.ended = update.to_sequence, 0, False
        else:
            self.sequence, self.epoch = update.sequence, 0
            self.ended = update.run.is_ended
