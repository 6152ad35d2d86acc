"""The metrics of an Approval service: what waits for people, and whether time is acted on."""

from prometheus_client import CollectorRegistry, Gauge

from holdfast.kit.db import Database
from holdfast.kit.telemetry.metrics import counter
from holdfast.ledger.gauge import approvals_waiting


class ApprovalMetrics:
    """Counts for all RPCs and loops of an Approval service together."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requested = counter(registry, "holdfast_approvals_requested_total", "Gates that runs opened.")
        self.votes = counter(
            registry,
            "holdfast_approval_votes_total",
            "Votes of people, by verdict: approve, deny.",
            ["verdict"],
        )
        for verdict in ("approve", "deny"):
            self.votes.labels(verdict)
        self._waiting = Gauge(
            "holdfast_approvals_waiting",
            "Gates that nobody has decided, up to 10,000; every Approval service shows the same.",
            registry=registry,
        )
        self._late = Gauge(
            "holdfast_approval_lag_seconds",
            "By how much the most overdue reminder, escalation or timeout has not been brought.",
            registry=registry,
        )

    async def look(self, db: Database) -> int:
        """Take the figures from the ledger once."""
        async with db.connection() as connection:
            waiting = await approvals_waiting(connection)
        self._waiting.set(waiting.count)
        self._late.set(waiting.late_s)
        return 0
