"""A lease begins an activation of a run: in the trace the run came in, or after a wait in one of its own.

    caller's trace: Invoke ─ admission ─ lease ─ activation ─ (crash) ─ lease ─ activation ─ parks
    a trace of its own, linked to that one:                              lease ─ activation ─ parks
    the next:                                                            lease ─ activation ─ ends

A run that waits for a day does not keep a trace open for a day. Nor do the runs of a batch share one: each
begins its own, linked to that of the call that made the batch. The id of such a trace follows from the run
and how often it has waited, so an activation that takes over after a crash goes on in the same one.
"""

from contextlib import nullcontext
from datetime import datetime
from typing import Any

from holdfast.kit.telemetry import span, tracing
from holdfast.kit.telemetry.trace_id import chosen, trace_of
from holdfast.ledger.values import Leased
from holdfast.v1 import run_pb2

FIRST_EPOCH = 1


def leased_traceparent(lease: Leased, origin: str, correlation_id: str) -> str:
    """Return where the activation under a lease goes on, and tell of the lease; `origin` is the run's own.

    While nothing is traced, or the caller wants no trace, that is the origin.
    """
    if not tracing.enabled() or (span.is_traceparent(origin) and not span.is_sampled(origin)):
        return origin
    attributes: dict[str, Any] = {
        span.RUN_ID: str(lease.run_id),
        span.TENANT: lease.tenant,
        span.INTENT: lease.intent,
        span.EPOCH: lease.epoch,
        span.ATTEMPT: lease.attempt,
    }
    if correlation_id:
        attributes[span.CORRELATION_ID] = correlation_id
    # Since when it has been ready is known of a run's first lease only.
    since = lease.create_time if lease.epoch == FIRST_EPOCH else lease.lease_time
    apart = bool(lease.waits) or not origin or lease.shape == run_pb2.SHAPE_BATCH
    with chosen(trace_of(str(lease.run_id), lease.waits)) if apart else nullcontext():
        told = span.start(
            "lease",
            under="" if apart else origin,
            attributes=attributes,
            links=(origin,) if apart and origin else (),
            start_ns=_nanoseconds(since),
        )
    told.end(max(_nanoseconds(lease.lease_time), _nanoseconds(since)))
    return span.traceparent(told)


def _nanoseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000) * 1000
