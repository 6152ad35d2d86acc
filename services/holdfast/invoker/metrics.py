"""The metrics of an Invoker: how long runs take to be let in and claimed, and how long they wait."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from holdfast.kit.db import Database
from holdfast.kit.telemetry.metrics import MOST_NAMES, OTHER, SIZES, SLOW, asked, counter, histogram, timed
from holdfast.ledger.gauge import QueueDepth, queue_depths, timer_lag
from holdfast.ledger.values import Leased
from holdfast.v1 import invoker_service_pb2

SHAPES: Final = {1: "service", 2: "worker", 3: "workflow", 4: "batch"}
MOST_TENANTS: Final = 20
_DELAYED: Final = 1.0
_FIRST_EPOCH: Final = 1


class InvokerMetrics:
    """Counts for all RPCs and loops of an Invoker together."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._admission = histogram(
            registry,
            "holdfast_admission_duration_seconds",
            "From an invocation's arrival at the door to its answer, by outcome: created, found, refused.",
            ["outcome"],
        )
        self.created = self._admission.labels("created")
        self.found = self._admission.labels("found")
        self.refused = self._admission.labels("refused")
        self.group_size = histogram(
            registry,
            "holdfast_admission_group_size",
            "Invocations admitted in one transaction.",
            buckets=SIZES,
        )
        self.refusals = counter(
            registry, "holdfast_refusals_total", "Invocations that were refused, by reason.", ["reason"]
        )
        waits = histogram(
            registry,
            "holdfast_queue_wait_seconds",
            "From acceptance (or the end of its delay) to a run's first lease, by class: its shape.",
            ["class"],
            buckets=SLOW,
        )
        self._waits = {number: waits.labels(shape) for number, shape in SHAPES.items()}
        self.claim_seconds = histogram(
            registry, "holdfast_claim_duration_seconds", "How long claiming a group of runs took."
        )
        self.claimed = counter(
            registry,
            "holdfast_runs_leased_total",
            "Runs leased, by how: placed (at admission), claimed.",
            ["how"],
        )
        self.freed = counter(
            registry,
            "holdfast_leases_lost_total",
            "Leases freed because their runner fell silent, by what became of the run: requeued, ended.",
            ["became"],
        )
        for became in ("requeued", "ended"):  # before the first: else its increase is not seen
            self.freed.labels(became)
        self.ended = counter(
            registry,
            "holdfast_runs_ended_total",
            "Runs that ended by the platform's hand, by status.",
            ["status"],
        )
        self.ended.labels("DEAD_LETTERED")
        self.fired = counter(
            registry,
            "holdfast_timers_fired_total",
            "Deadlines, delays and waits that came due and were acted on.",
        )
        self.removed = counter(
            registry, "holdfast_runs_removed_total", "Runs that were removed when their retention was over."
        )
        self.batches_removed = counter(
            registry, "holdfast_batches_removed_total", "Batches that were removed likewise."
        )
        self.sessions_removed = counter(
            registry, "holdfast_sessions_removed_total", "Sessions that were forgotten likewise."
        )
        self.queues = _Queues(registry)

    def watch_board(self, runners: Callable[[], int], credit: Callable[[], int]) -> None:
        """Show who is connected."""
        asked(self._registry, "holdfast_runners_connected", "Runners with a stream to this Invoker.", runners)
        asked(self._registry, "holdfast_runner_credit", "Runs that these runners could take at once.", credit)

    def leased(self, how: str, leases: Sequence[Leased]) -> None:
        """Count leases, and how long each run has waited for its first."""
        self.claimed.labels(how).inc(len(leases))
        for lease in leases:
            if lease.epoch == _FIRST_EPOCH:
                timed(self._waits.get(lease.shape, self._waits[1]), _waited(lease))


class _Queues:
    """What waits, as the ledger counts it: every Invoker shows the same."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._depth = Gauge(
            "holdfast_queue_depth",
            "Runs that a runner could take now, by intent; what a cap or a breaker holds back is left out.",
            ["intent"],
            registry=registry,
        )
        self._age = Gauge(
            "holdfast_queue_oldest_age_seconds",
            "Age of the oldest run that a runner could take now, by intent.",
            ["intent"],
            registry=registry,
        )
        self._tenants = Gauge(
            "holdfast_tenant_queue_depth",
            "The same by tenant: of the twenty with most, and of the others together.",
            ["tenant"],
            registry=registry,
        )
        self._tenant_age = Gauge(
            "holdfast_tenant_queue_oldest_age_seconds",
            "Age of the oldest run of each of these that a runner could take now.",
            ["tenant"],
            registry=registry,
        )
        self._lag = Gauge(
            "holdfast_timer_lag_seconds",
            "By how much the most overdue deadline, delay or wait has not been acted on.",
            registry=registry,
        )

    async def look(self, db: Database) -> int:
        """Take the figures from the ledger once."""
        async with db.connection() as connection:
            depths = await queue_depths(connection)
            self._lag.set(await timer_lag(connection))
        _show(self._depth, self._age, depths, lambda each: each.intent, MOST_NAMES)
        _show(self._tenants, self._tenant_age, depths, lambda each: each.tenant, MOST_TENANTS)
        return 0


def _show(
    depth: Gauge,
    age: Gauge,
    depths: Sequence[QueueDepth],
    name: Callable[[QueueDepth], str],
    most: int,
) -> None:
    """Show the figures by name, the largest by themselves; names of which nothing waits are forgotten."""
    total: Counter[str] = Counter()
    for each in depths:
        total[name(each)] += each.queued
    kept = {one for one, _ in total.most_common(most)}
    queued: Counter[str] = Counter()
    oldest: dict[str, float] = {}
    for each in depths:
        one = name(each) if name(each) in kept else OTHER
        queued[one] += each.queued
        oldest[one] = max(oldest.get(one, 0.0), each.oldest_s or 0.0)
    depth.clear()
    age.clear()
    for one, count in queued.items():
        depth.labels(one).set(count)
        age.labels(one).set(oldest[one])


def _waited(lease: Leased) -> float:
    since = lease.create_time
    waited = (lease.lease_time - since).total_seconds()
    if waited > _DELAYED:  # perhaps it was to wait
        envelope = invoker_service_pb2.InvokeRequest.FromString(lease.envelope)
        if envelope.HasField("not_before"):
            since = max(since, envelope.not_before.ToDatetime(since.tzinfo))
            waited = (lease.lease_time - since).total_seconds()
    return max(0.0, waited)
