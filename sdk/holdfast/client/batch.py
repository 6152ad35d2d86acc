"""Batches: what they are to do, how far they are, and their items."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from holdfast.client.number import Number
from holdfast.client.run import Failure, Invocation, Usage


class BatchStatus(Number):
    """Where a batch stands."""

    UNSPECIFIED = 0
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


class BatchItemStatus(Number):
    """Where an item stands."""

    UNSPECIFIED = 0
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


@dataclass(frozen=True, slots=True)
class ReviewPolicy:
    """When staged outputs are accepted without a person: a share of 0.98 of 200 judged, for example.

    With a `reviewer_intent` an agent judges as many as `min_judged`, in place of people.
    """

    min_accepted_share: float = 0.0
    min_judged: int = 0
    reviewer_intent: str = ""
    apply_when_met: bool = False


@dataclass(frozen=True, slots=True)
class ApplyEffect:
    """Accepted outputs go to a destination, one effect each; another destination undoes one."""

    destination: str
    undo_destination: str = ""


@dataclass(frozen=True, slots=True)
class FollowUp:
    """Accepted outputs go to a run each; another run undoes what one has done that has succeeded.

    Both have the item's output as their payload's `output`. `undo` is given its `key`, `current`,
    `follow_up_run_id` and `follow_up_result` besides.
    """

    run: Invocation
    undo: Invocation | None = None


ApplyTarget = ApplyEffect | FollowUp
"""What becomes of accepted outputs: an effect each, or a run each."""


@dataclass(frozen=True, slots=True)
class ItemReview:
    """What is said about one item; without a reason nothing is rejected, and `edited` goes with accepting.

    `reviewer` (a user, or the run of a reviewing agent) and `review_time` are the server's.
    """

    index: int
    accepted: bool
    reason: str = ""
    edited: Any = None
    reviewer: str = ""
    review_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class BatchSource:
    """Where items come from if they are not sent: a source that the operator has declared, by its name.

    `parameters` are the values that it asks for, as text.
    """

    source: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """What a batch is to do: `invocation` is the envelope of each item's run; 0 takes the default.

    `max_attempts` is how many runs an item may have, `initial_backoff` and `max_backoff` in seconds between.
    With a `source` nothing is sent.
    """

    invocation: Invocation
    display_name: str = ""
    idempotency_key: str = ""
    skip_staging: bool = False
    max_parallelism: int = 0
    in_order: bool = False
    max_attempts: int = 0
    initial_backoff: float = 0.0
    max_backoff: float = 0.0
    tolerated_items: int = 0
    tolerated_share: float = 0.0
    label_field: str = ""
    confidence_field: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    start_when_uploaded: bool = False
    review: ReviewPolicy | None = None
    apply: ApplyTarget | None = None
    source: BatchSource | None = None


@dataclass(frozen=True, slots=True)
class BatchInput:
    """One item as it is sent; without a key its index is its key. `current` is what is there now."""

    payload: Mapping[str, Any]
    key: str = ""
    current: Any = None


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One difference between what is there and what is staged."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One item of a batch."""

    index: int
    key: str
    status: BatchItemStatus
    payload: Mapping[str, Any]
    current: Any = None
    run_id: str = ""
    attempts: int = 0
    output: Any = None
    changes: tuple[FieldChange, ...] = ()
    label: str = ""
    confidence: float | None = None
    usage: Usage = field(default_factory=Usage)
    cost_micros: int = 0
    failure: Failure | None = None
    update_time: datetime | None = None
    review: ItemReview | None = None
    effect_id: str = ""
    follow_up_run_id: str = ""
    undo_effect_id: str = ""
    undo_run_id: str = ""


@dataclass(frozen=True, slots=True)
class Stratum:
    """Alike items of a sample: the class of output and the bands, how many there are, and those drawn."""

    label: str
    confidence_band: int
    cost_band: int
    population: int
    items: tuple[BatchItem, ...]


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Items that failed alike."""

    reason: str
    count: int
    example_message: str = ""
    example_indexes: tuple[int, ...] = ()


_WAITING: Final = (BatchItemStatus.PENDING, BatchItemStatus.RUNNING)
_LEFT: Final = {
    BatchStatus.APPLYING: (BatchItemStatus.ACCEPTED, BatchItemStatus.APPLYING),
    BatchStatus.ROLLING_BACK: (BatchItemStatus.APPLYING, BatchItemStatus.APPLIED),
}


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a batch is; `latency` is (at most so many seconds, items), None where there is no bound.

    `cost_micros` is in millionths of the operator's currency, 0 where no price of tokens is set.
    """

    total: int = 0
    counts: Mapping[BatchItemStatus, int] = field(default_factory=dict)
    items_per_second: float = 0.0
    tokens_per_second: float = 0.0
    eta_earliest: datetime | None = None
    eta_latest: datetime | None = None
    usage: Usage = field(default_factory=Usage)
    cost_micros: int = 0
    latency: tuple[tuple[float | None, int], ...] = ()
    errors: tuple[ErrorGroup, ...] = ()
    snapshot_time: datetime | None = None

    @property
    def ended(self) -> int:
        """Items that neither wait nor run."""
        return self.total - self._standing(_WAITING)

    def done(self, status: BatchStatus) -> int:
        """Items that the present phase need not look at any more, by where the batch stands."""
        return self.total - self._standing(_LEFT.get(status, _WAITING))

    def _standing(self, statuses: Iterable[BatchItemStatus]) -> int:
        return sum(self.counts.get(status, 0) for status in statuses)


@dataclass(frozen=True, slots=True)
class Batch:
    """Many items over one intent; `source_error` says why its source could not be read the last time.

    `apply` is what becomes of accepted outputs, unless whoever applies them says otherwise.
    """

    batch_id: str
    intent: str
    status: BatchStatus
    display_name: str = ""
    resume_status: BatchStatus = BatchStatus.UNSPECIFIED
    pause_reason: str = ""
    uploaded_items: int = 0
    max_parallelism: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    schedule: str = ""
    create_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    source: BatchSource | None = None
    source_error: str = ""
    apply: ApplyTarget | None = None

    @property
    def is_going(self) -> bool:
        """Tell whether it does something by itself."""
        going = (BatchStatus.RUNNING, BatchStatus.APPLYING, BatchStatus.ROLLING_BACK)
        return self.status in going


@dataclass(frozen=True, slots=True)
class Reviewed:
    """How far a batch is after a review: items judged one by one, and whether the policy accepts the rest."""

    progress: BatchProgress
    judged: int
    accepted: int
    policy_met: bool
