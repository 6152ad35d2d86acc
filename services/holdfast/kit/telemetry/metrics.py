"""What a process counts of itself, for Prometheus to read (`metrics_page`).

A metric costs a microsecond or two where it is told (`bench/telemetry.py`), so hot paths hold the child
of a metric and not its labels. No label is a run, a user or anything else a caller may invent; those
that name what there may be many of (tenants, models) are bounded by `Bounded`. Latencies carry the trace of
the last call of each bucket as an exemplar, which Prometheus reads over OpenMetrics.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector

from holdfast.kit.telemetry import logs, span

QUICK: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Buckets, in seconds, of what should take milliseconds."""
SLOW: Final = (0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Of what depends on others: models, destinations, a place in the queue."""
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Of groups."""
GAUGE_SECONDS: Final = 15.0
"""Between two looks at the ledger, while somebody is shown what they see."""
MOST_NAMES: Final = 50
OTHER: Final = "other"


class Metrics:
    """What every process of ours shows: its RPCs, its memory and time, how late its loop is."""

    def __init__(self, service: str) -> None:
        self.registry = CollectorRegistry()
        self.calls = CallMetrics(self.registry)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        up = Gauge(
            "holdfast_service", "1, by the service this process is.", ["service"], registry=self.registry
        )
        up.labels(service).set(1)
        self.lag = Histogram(
            "holdfast_event_loop_lag_seconds",
            "How late the event loop came to a timer, looked at once a second.",
            buckets=QUICK,
            registry=self.registry,
        )


class CallMetrics:
    """How long the RPCs of a server take, and how they end."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "holdfast_grpc_request_duration_seconds",
            "How long served RPCs took, by method and code; streams from begin to end.",
            ["method", "code"],
            buckets=QUICK,
            registry=registry,
        )
        self._children: dict[tuple[str, str], Any] = {}

    def ended(self, method: str, code: str, seconds: float) -> None:
        """Count an RPC; `method` is one that is served: unknown ones do not get here."""
        child = self._children.get((method, code))
        if child is None:
            child = self._children[method, code] = self._seconds.labels(method.lstrip("/"), code)
        timed(child, seconds)


class Bounded:
    """Keeps the names that a label takes few: the first fifty are themselves, all others are `other`."""

    def __init__(self, child: Callable[..., Any], most: int = MOST_NAMES) -> None:
        self._child = child
        self._most = most
        self._known: dict[str, None] = {}

    def __call__(self, name: str, *more: str) -> Any:
        """Return the child of a metric for a name, first of its labels."""
        if name not in self._known:
            if len(self._known) >= self._most:
                return self._child(OTHER, *more)
            self._known[name] = None
        return self._child(name, *more)


def timed(histogram: Any, seconds: float, traceparent: str = "") -> None:
    """Note a latency, with the trace it was measured in if that is kept: `traceparent`, or this task's."""
    if traceparent:
        trace_id = traceparent[3:35] if span.is_sampled(traceparent) else ""
    else:
        trace_id = logs.bound_trace()
    histogram.observe(seconds, {"trace_id": trace_id} if trace_id else None)


def asked(registry: CollectorRegistry, name: str, text: str, value: Callable[[], float]) -> None:
    """Make a gauge that is asked when it is read; `value` is called on another thread and must only look."""
    Gauge(name, text, registry=registry).set_function(value)


def counter(registry: CollectorRegistry, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
    """Make a counter; its name ends in `_total`."""
    return Counter(name, text, labels, registry=registry)


def histogram(
    registry: CollectorRegistry,
    name: str,
    text: str,
    labels: Sequence[str] = (),
    *,
    buckets: Sequence[float] = QUICK,
) -> Histogram:
    """Make a histogram, by default of seconds that should be milliseconds."""
    return Histogram(name, text, labels, buckets=buckets, registry=registry)
