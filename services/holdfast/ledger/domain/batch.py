"""Where a batch and its items stand, every move they may make, and what is to be done next for a batch.

UPLOADING ─▶ READY ─▶ RUNNING ─▶ IN_REVIEW ─▶ APPLYING ─▶ APPLIED ─▶ ROLLING_BACK ─▶ ROLLED_BACK
                       ▲ │ ▲────────┘ tried again    ▲─────────┘ the rest, accepted later
                       │ └─▶ COMPLETED, without staging
                       ▼
                      PAUSED from RUNNING, APPLYING, ROLLING_BACK; CANCELLED from each that has not ended

PENDING ─▶ RUNNING ─▶ STAGED | SUCCEEDED | SKIPPED | CANCELLED
   ▲          │                             │
   └──────────┴── tried again ──────────────┘
STAGED ─▶ ACCEPTED ◀─▶ REJECTED
             └─▶ APPLYING ─▶ APPLIED | APPLY_FAILED, and if it arrives after all: APPLIED
                                └─▶ ROLLED_BACK | ROLLBACK_FAILED, and after all: ROLLED_BACK
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from holdfast.ledger.domain.status import RunStatus


class BatchStatus(IntEnum):
    """The numbers of `holdfast.v1.BatchStatus`."""

    UPLOADING = 1
    READY = 2
    RUNNING = 3
    IN_REVIEW = 4
    APPLYING = 5
    APPLIED = 6
    ROLLING_BACK = 7
    ROLLED_BACK = 8
    PAUSED = 9
    COMPLETED = 10
    CANCELLED = 11


class ItemStatus(IntEnum):
    """The numbers of `holdfast.v1.BatchItemStatus`."""

    PENDING = 1
    RUNNING = 2
    STAGED = 3
    ACCEPTED = 4
    REJECTED = 5
    SKIPPED = 6
    APPLYING = 7
    APPLIED = 8
    APPLY_FAILED = 9
    ROLLED_BACK = 10
    ROLLBACK_FAILED = 11
    SUCCEEDED = 12
    CANCELLED = 13


B = BatchStatus
I = ItemStatus  # noqa: E741 - read beside B

BATCH_MOVES: Final[Mapping[BatchStatus, frozenset[BatchStatus]]] = MappingProxyType(
    {
        B.UPLOADING: frozenset({B.READY, B.RUNNING, B.CANCELLED}),
        B.READY: frozenset({B.RUNNING, B.CANCELLED}),
        B.RUNNING: frozenset({B.IN_REVIEW, B.COMPLETED, B.PAUSED, B.CANCELLED}),
        B.PAUSED: frozenset({B.RUNNING, B.APPLYING, B.ROLLING_BACK, B.CANCELLED}),
        B.IN_REVIEW: frozenset({B.RUNNING, B.APPLYING, B.CANCELLED}),
        B.APPLYING: frozenset({B.APPLIED, B.PAUSED, B.ROLLING_BACK, B.CANCELLED}),
        B.APPLIED: frozenset({B.APPLYING, B.ROLLING_BACK}),
        B.ROLLING_BACK: frozenset({B.ROLLED_BACK, B.PAUSED, B.CANCELLED}),
        B.ROLLED_BACK: frozenset({B.ROLLING_BACK}),
        B.COMPLETED: frozenset({B.RUNNING}),
        B.CANCELLED: frozenset({B.ROLLING_BACK}),
    }
)
"""Which status may follow which."""

ITEM_MOVES: Final[Mapping[ItemStatus, frozenset[ItemStatus]]] = MappingProxyType(
    {
        I.PENDING: frozenset({I.RUNNING, I.SKIPPED, I.CANCELLED}),
        I.RUNNING: frozenset({I.PENDING, I.STAGED, I.SUCCEEDED, I.SKIPPED, I.CANCELLED}),
        I.STAGED: frozenset({I.ACCEPTED, I.REJECTED}),
        I.ACCEPTED: frozenset({I.REJECTED, I.APPLYING, I.APPLY_FAILED}),
        I.REJECTED: frozenset({I.ACCEPTED}),
        I.APPLYING: frozenset({I.APPLIED, I.APPLY_FAILED}),
        I.APPLIED: frozenset({I.ROLLED_BACK, I.ROLLBACK_FAILED}),
        I.APPLY_FAILED: frozenset({I.ACCEPTED, I.APPLYING, I.APPLIED}),
        I.ROLLED_BACK: frozenset(),
        I.ROLLBACK_FAILED: frozenset({I.APPLIED, I.ROLLED_BACK}),
        I.SUCCEEDED: frozenset(),
        I.SKIPPED: frozenset({I.PENDING}),
        I.CANCELLED: frozenset(),
    }
)
"""Which status of an item may follow which."""

ENDED_BATCH: Final = frozenset({B.APPLIED, B.ROLLED_BACK, B.COMPLETED, B.CANCELLED})
"""Nothing further is started of these by itself."""
ON_ITS_WAY: Final = frozenset({I.PENDING, I.RUNNING, I.APPLYING})
"""Items that move on though their batch has ended."""

MIN_ENDED_FOR_SHARE: Final = 100
"""So many items must have ended before their share of failures says anything."""
CHUNK: Final = 250
"""Items that are started in one transaction."""

LIGHT_CHUNK: Final = 50
"""Light items that one run executes at most."""
_LIGHT: Final = "#light"
_OVERLAP: Final = 4
"""Chunks that share a batch's parallelism: while one waits for its slowest item, others go on."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How many items may be skipped: by count, and as a share of those ended; 0 is no limit."""

    max_items: int = 0
    max_share: float = 0.0

    def exceeded(self, skipped: int, ended: int) -> str | None:
        """Say why so many failures are too many; None if they are not."""
        if self.max_items and skipped > self.max_items:
            return f"{skipped:,} items were skipped; {self.max_items:,} are tolerated."
        if self.max_share and ended >= MIN_ENDED_FOR_SHARE and skipped > self.max_share * ended:
            return f"{skipped:,} of {ended:,} items were skipped; a share of {self.max_share:g} is tolerated."
        return None


@dataclass(frozen=True, slots=True)
class Standing:
    """A batch and its counters, as they are under its tenant's lock."""

    status: BatchStatus
    counts: Mapping[ItemStatus, int] = field(default_factory=dict)
    max_parallelism: int = 1
    in_order: bool = False
    skip_staging: bool = False
    tolerance: Tolerance = field(default_factory=Tolerance)
    forgiven_skipped: int = 0
    forgiven_ended: int = 0

    def count(self, status: ItemStatus) -> int:
        """Return how many items stand there."""
        return self.counts.get(status, 0)

    @property
    def ended(self) -> int:
        """Items that wait for nothing and are in no runner's hands."""
        return sum(self.counts.values()) - self.count(I.PENDING) - self.count(I.RUNNING)


@dataclass(frozen=True, slots=True)
class Admit:
    """Start so many items more."""

    items: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Too much has failed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Finish:
    """All items have ended."""

    status: BatchStatus


@dataclass(frozen=True, slots=True)
class Clear:
    """Cancel what waits."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing now; `done` if nothing will be until someone asks."""

    done: bool = False


Step = Admit | Pause | Finish | Clear | Rest


def is_over(status: BatchStatus, counts: Mapping[ItemStatus, int], undoing: int) -> bool:
    """Tell whether a batch has ended and nothing of it, of `undoing` undos neither, is still to arrive."""
    return status in ENDED_BATCH and not undoing and not any(counts.get(each) for each in ON_ITS_WAY)


def next_step(standing: Standing) -> Step:
    """Say what is to be done next for a batch."""
    pending, running = standing.count(I.PENDING), standing.count(I.RUNNING)
    if standing.status is B.CANCELLED:
        return Clear() if pending else Rest(done=True)
    if standing.status is not B.RUNNING:
        return Rest(done=True)
    skipped = standing.count(I.SKIPPED) - standing.forgiven_skipped
    why = standing.tolerance.exceeded(skipped, standing.ended - standing.forgiven_ended)
    if why is not None and pending:
        return Pause(why)
    if not pending and not running:
        return Finish(B.COMPLETED if standing.skip_staging else B.IN_REVIEW)
    room = (1 if standing.in_order else standing.max_parallelism) - running
    admitted = min(room, pending, CHUNK)
    return Admit(admitted) if admitted > 0 else Rest()


def after_run(
    run: RunStatus, *, skip_staging: bool, cancelled: bool, attempts: int, max_attempts: int
) -> ItemStatus:
    """Return where the end of its run takes an item; the ledger's trigger says the same in SQL."""
    if run is RunStatus.SUCCEEDED:
        return I.SUCCEEDED if skip_staging else I.STAGED
    if cancelled:
        return I.CANCELLED
    if run is RunStatus.DEAD_LETTERED and attempts < max_attempts:
        return I.PENDING
    return I.SKIPPED


def light_intent(intent: str) -> str:
    """Return the intent under which chunks of light items run; no caller can name it, for its character."""
    return intent + _LIGHT


def named_intent(intent: str) -> str:
    """Return the intent as its callers name it, of a chunk's too."""
    return intent.removesuffix(_LIGHT)


def light_chunk(max_parallelism: int) -> int:
    """Return how many light items one run executes."""
    return max(1, min(LIGHT_CHUNK, max_parallelism // _OVERLAP))


@dataclass(frozen=True, slots=True)
class AfterLight:
    """Where a light item goes; whether the try counts, and whether the next is a chunk of its own."""

    status: ItemStatus
    counts: bool = True
    alone: bool = False


def after_light(
    chunk: RunStatus,
    item: RunStatus | None,
    *,
    shared: bool,
    alone: bool,
    out_of_time: bool,
    skip_staging: bool,
    cancelled: bool,
    attempts: int,
    max_attempts: int,
) -> AfterLight:
    """Return where a light item goes when its chunk ends; the ledger's trigger says the same in SQL.

    `item` is what the chunk says of it, None if it was not executed to its end. A chunk that ends badly says
    nothing of anyone: of those that shared it each is tried by itself, and then it speaks for its only item,
    which stays `alone` until it is heard of.
    """
    if chunk is RunStatus.SUCCEEDED:
        if item is None:
            return AfterLight(I.CANCELLED if cancelled else I.PENDING, counts=False, alone=alone)
        ended, alone = item, False
    else:
        ended = chunk
        if not cancelled and chunk is not RunStatus.CANCELLED and (shared or out_of_time):
            return AfterLight(I.PENDING, counts=False, alone=alone or (shared and not out_of_time))
    status = after_run(
        ended, skip_staging=skip_staging, cancelled=cancelled, attempts=attempts, max_attempts=max_attempts
    )
    return AfterLight(status, alone=alone)
