"""How a batch's counters look on its page: parts of a bar, spans of time, and numbers for the plots."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from holdfast.client import Batch, BatchItemStatus, BatchProgress, BatchStatus
from holdfast.console.session import Session
from holdfast.console.words import span

_WIDE: Final = 1000
"""Units of the bar's width."""

ORDER: Final = (
    BatchItemStatus.APPLIED,
    BatchItemStatus.SUCCEEDED,
    BatchItemStatus.ACCEPTED,
    BatchItemStatus.STAGED,
    BatchItemStatus.APPLYING,
    BatchItemStatus.RUNNING,
    BatchItemStatus.ROLLED_BACK,
    BatchItemStatus.REJECTED,
    BatchItemStatus.APPLY_FAILED,
    BatchItemStatus.ROLLBACK_FAILED,
    BatchItemStatus.SKIPPED,
    BatchItemStatus.CANCELLED,
    BatchItemStatus.PENDING,
)
"""What is done comes first, what waits last, as a bar fills."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the bar: items that stand alike."""

    status: BatchItemStatus
    count: int
    x: float
    width: float
    share: float


def parts(progress: BatchProgress) -> list[Part]:
    """Return the parts in order; together they are as wide as the bar."""
    found, at = [], 0.0
    for status in ORDER:
        count = progress.counts.get(status, 0)
        if count and progress.total:
            share = count / progress.total
            found.append(Part(status, count, round(at, 2), round(share * _WIDE, 2), share))
            at += share * _WIDE
    return found


def percent(share: float) -> str:
    """Return a share in per cent; what is little but not nothing does not read as nothing."""
    if 0 < share < 0.001:  # noqa: PLR2004 - one digit after the point
        return "< 0.1 %"
    if 0.999 < share < 1:  # noqa: PLR2004
        return "> 99.9 %"
    return f"{share * 100:.0f} %" if share in {0.0, 1.0} else f"{share * 100:.1f} %"


_WAITS_FOR: Final = {
    BatchStatus.UPLOADING: "receiving items",
    BatchStatus.READY: "waits to be started",
    BatchStatus.IN_REVIEW: "waits for review",
}


def eta(batch: Batch, progress: BatchProgress, now: datetime | None = None) -> str:
    """Return when the present phase is expected to end, as a span from now."""
    if batch.end_time is not None:
        return "ended"
    if batch.status is BatchStatus.PAUSED:
        return "paused"
    if not batch.is_going:
        return _WAITS_FOR.get(batch.status, "-")
    if progress.eta_earliest is None or progress.eta_latest is None:
        return "not known yet"
    now = now or datetime.now(UTC)
    soonest, latest = (
        max(0.0, (each - now).total_seconds()) for each in (progress.eta_earliest, progress.eta_latest)
    )
    if latest < 1:
        return "now"
    first, last = span(soonest), span(latest)
    return first if first == last else f"{first} to {last}"


def quantile(progress: BatchProgress, part: float) -> str:
    """Return within what time a part of the items ended, as far as the buckets tell."""
    whole = sum(count for _, count in progress.latency)
    if not whole:
        return "-"
    reached, least = 0, 0.0
    for bound, count in progress.latency:
        reached += count
        if reached >= part * whole:
            return f"> {span(least)}" if bound is None else f"≤ {span(bound)}"
        least = bound or least
    return f"> {span(least)}"


def money(micros: int) -> str:
    """Return millionths of a currency as it is written, without its name; the price list knows that."""
    return f"{micros / 1_000_000:,.2f}" if micros >= 10_000 else f"{micros / 1_000_000:.6f}"  # noqa: PLR2004


def numbers(progress: BatchProgress) -> str:
    """Return what the plots draw, as JSON."""
    moment = progress.snapshot_time or datetime.now(UTC)
    return json.dumps(
        {
            "at": moment.timestamp(),
            "rate": progress.items_per_second,
            "tokens": progress.tokens_per_second,
            "latency": [
                [f"≤ {span(bound)}" if bound is not None else "more", count]
                for bound, count in progress.latency
            ],
        }
    )


_PAUSABLE: Final = frozenset({BatchStatus.RUNNING, BatchStatus.APPLYING, BatchStatus.ROLLING_BACK})
_ENDED: Final = frozenset(
    {BatchStatus.APPLIED, BatchStatus.ROLLED_BACK, BatchStatus.COMPLETED, BatchStatus.CANCELLED}
)


def possible(batch: Batch, progress: BatchProgress, session: Session) -> dict[str, bool]:
    """Return what can be done with a batch as it stands, by somebody with these roles."""
    status, counts = batch.status, progress.counts
    can = {
        "upload": (status is BatchStatus.UPLOADING and batch.source is None, "CreateBatch"),
        "start": (status is BatchStatus.READY, "StartBatch"),
        "pause": (status in _PAUSABLE, "PauseBatch"),
        "resume": (status is BatchStatus.PAUSED, "ResumeBatch"),
        "cancel": (status not in _ENDED, "CancelBatch"),
        "update": (status not in _ENDED, "UpdateBatch"),
        "retry": (
            status is not BatchStatus.CANCELLED
            and any(counts.get(each) for each in (BatchItemStatus.SKIPPED, BatchItemStatus.APPLY_FAILED)),
            "RetryBatchItems",
        ),
        "review": (bool(counts.get(BatchItemStatus.STAGED)), "SampleBatch"),
        "judge": (bool(counts.get(BatchItemStatus.STAGED)), "ReviewItems"),
        "apply": (bool(counts.get(BatchItemStatus.ACCEPTED)) and status not in _PAUSABLE, "ApplyBatch"),
        "rollback": (bool(counts.get(BatchItemStatus.APPLIED)), "RollbackBatch"),
    }
    return {name: now and session.may(f"BatchService/{call}") for name, (now, call) in can.items()}


def look(batch: Batch, progress: BatchProgress, session: Session) -> dict[str, Any]:
    """Return all that the parts of a batch's page show."""
    return {
        "batch": batch,
        "progress": progress,
        "parts": parts(progress),
        "eta": eta(batch, progress),
        "possible": possible(batch, progress, session),
        "half": quantile(progress, 0.5),
        "most": quantile(progress, 0.95),
        "cost": money(progress.cost_micros) if progress.cost_micros else "",
        "percent": percent,
        "numbers": numbers(progress),
        "applying": progress.counts.get(BatchItemStatus.APPLYING, 0),
        "in_flight": progress.counts.get(BatchItemStatus.RUNNING, 0),
    }
