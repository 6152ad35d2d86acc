"""The metrics of a Dispatcher: what reaches its destination, how fast, and what does not."""

from collections.abc import Sized
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from holdfast.kit.db import Database
from holdfast.kit.telemetry.metrics import SLOW, asked, counter, histogram, timed
from holdfast.ledger.domain.breaker import BreakerState
from holdfast.ledger.domain.delivery import EffectStatus
from holdfast.ledger.gauge import due_effects, tripped_breakers
from holdfast.ledger.outbox_claim import Delivery
from holdfast.ledger.outbox_settle import Settlement

KINDS: Final = {
    "http": "http",
    "https": "http",
    "grpc": "grpc",
    "grpcs": "grpc",
    "nats": "nats",
    "tls": "nats",
}
_OUTCOMES: Final = {EffectStatus.DELIVERED: "delivered", EffectStatus.DEAD_LETTERED: "dead_lettered"}


class DispatcherMetrics:
    """Counts for all calls of a Dispatcher together, by the kind of destination: http, grpc, nats."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._seconds = histogram(
            registry,
            "holdfast_delivery_duration_seconds",
            "How long attempts to deliver took, by kind and what came of the effect: delivered, retried, "
            "dead_lettered.",
            ["kind", "outcome"],
            buckets=SLOW,
        )
        self._effects = counter(
            registry,
            "holdfast_effects_total",
            "Attempts to deliver, by kind and what came of the effect: delivered, dead_lettered, retried.",
            ["kind", "outcome"],
        )
        self._counted = {
            (kind, outcome): (self._effects.labels(kind, outcome), self._seconds.labels(kind, outcome))
            for kind in sorted(set(KINDS.values()))
            for outcome in (*_OUTCOMES.values(), "retried")
        }
        self._due = Gauge(
            "holdfast_effects_pending",
            "Effects that may be sent now and are not yet, by kind; every Dispatcher shows the same.",
            ["kind"],
            registry=registry,
        )
        self._age = Gauge(
            "holdfast_effects_oldest_age_seconds",
            "For how long the oldest of these might have been sent, by kind.",
            ["kind"],
            registry=registry,
        )
        self._breakers = Gauge(
            "holdfast_breakers_tripped",
            "Destinations whose breaker is not closed, by state; every Dispatcher shows the same.",
            ["state"],
            registry=registry,
        )

    def watch(self, calls: Sized) -> None:
        """Show how many calls are under way."""
        asked(
            self._registry, "holdfast_deliveries_in_flight", "Calls to destinations now.", lambda: len(calls)
        )

    def settled(self, delivery: Delivery, settlement: Settlement) -> None:
        """Count what came of an attempt."""
        if not settlement.called:
            return
        kind = kind_of(delivery.destination.url)
        outcome = _OUTCOMES.get(settlement.verdict.status, "retried")
        effects, seconds = self._counted[kind, outcome]
        effects.inc()
        timed(seconds, settlement.duration_s, delivery.traceparent)

    async def look(self, db: Database) -> int:
        """Take the figures from the ledger once."""
        async with db.connection() as connection:
            due = await due_effects(connection)
            tripped = await tripped_breakers(connection)
        for kind in sorted(set(KINDS.values())):
            mine = [each for each in due if kind_of(f"{each.scheme}:") == kind]
            self._due.labels(kind).set(sum(each.due for each in mine))
            self._age.labels(kind).set(max((each.oldest_s for each in mine), default=0.0))
        for state in (BreakerState.OPEN, BreakerState.HALF_OPEN):
            self._breakers.labels(state.name.lower()).set(tripped.get(state, 0))
        return 0


def kind_of(url: str) -> str:
    """Return by which kind of call a destination is reached."""
    return KINDS.get(url.partition(":")[0].lower(), "http")
