"""Tenants: what they may do, and how they fare."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from holdfast.client.run import Budget


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as its counters show it; `oldest_age` in seconds, None if nothing waits.

    Of `parked` and `dead_lettered` 1,000 stands for as many or more; of an intent only what waits is known.
    """

    queued: int = 0
    oldest_age: float | None = None
    in_flight: int = 0
    parked: int = 0
    dead_lettered: int = 0
    refused_queue_full: int = 0
    refused_rate: int = 0
    throttled: bool = False


@dataclass(frozen=True, slots=True)
class Statistics:
    """A tenant's queue, whole and by intent, the longest first."""

    tenant: str
    queue: Queue
    intents: dict[str, Queue] = field(default_factory=dict)
    snapshot_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant and its limits; `rate` in runs a second, `burst` how many may come at once after a pause.

    `alert_destination` is sent an effect for each run and effect that is set aside; empty: none. Of the caps
    `max_in_flight_per_user` is that of each user whom `max_in_flight_by_user` does not name; 0: none.
    `retention` is for how many seconds after its end a run is kept, by shape: `service`, `worker`,
    `workflow`, `batch`. Runs of others stay.
    """

    tenant: str
    weight: int
    max_in_flight: int
    max_queued: int
    rate: float
    burst: int
    default_budget: Budget
    alert_destination: str = ""
    max_in_flight_by_intent: Mapping[str, int] = field(default_factory=dict)
    retention: Mapping[str, float] = field(default_factory=dict)
    max_in_flight_per_user: int = 0
    max_in_flight_by_user: Mapping[str, int] = field(default_factory=dict)
    create_time: datetime | None = None
    update_time: datetime | None = None
