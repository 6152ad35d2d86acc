"""Schedules: what starts by itself, when, and what came of it."""

from dataclasses import dataclass, field
from datetime import datetime

from holdfast.client.batch import BatchSpec
from holdfast.client.number import FireOrigin, FireResult, OverlapPolicy
from holdfast.client.run import Invocation


@dataclass(frozen=True, slots=True)
class Timing:
    """When a schedule falls due: exactly one of `cron`, `every` and `at`; durations in seconds.

    `cron` has five fields and goes by the clock of `zone`, a name of the IANA database; `every` is counted
    from `anchor`, or from the schedule's creation. There is no time before `start`, and none at or after
    `end`. Each is delayed by up to `jitter`.
    """

    cron: str = ""
    zone: str = ""
    every: float | None = None
    anchor: datetime | None = None
    at: datetime | None = None
    start: datetime | None = None
    end: datetime | None = None
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class Fire:
    """What came of one time; `message` says why it has started nothing."""

    scheduled_time: datetime | None
    fire_time: datetime | None
    origin: FireOrigin
    result: FireResult
    run_id: str = ""
    batch_id: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Something that starts by itself: a `run`, or a `batch`, whose items come from its source.

    `catch_up` is in seconds, None the platform's minute. From `next_time` to `update_time` the fields are the
    server's.
    """

    name: str
    timing: Timing
    run: Invocation | None = None
    overlap: OverlapPolicy = OverlapPolicy.UNSPECIFIED
    catch_up: float | None = None
    labels: dict[str, str] = field(default_factory=dict)
    paused: bool = False
    pause_reason: str = ""
    next_time: datetime | None = None
    recent_fires: tuple[Fire, ...] = ()
    create_time: datetime | None = None
    update_time: datetime | None = None
    batch: BatchSpec | None = None

    @property
    def invocation(self) -> Invocation:
        """The envelope of its run, or of its batch's items."""
        if self.batch is not None:
            return self.batch.invocation
        return self.run or Invocation("")
