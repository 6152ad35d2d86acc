"""The metrics of a Checkpoint service: how long commits wait for durability, and how many share it."""

from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry

from holdfast.kit.telemetry.metrics import SIZES, asked, counter, histogram
from holdfast.ledger.commit_value import CommitItem, CommitResult, Park, Refused
from holdfast.ledger.domain.status import ENDED, RunStatus

PROGRESS: Final = "progress"
MOVES: Final = "moves"


class LineMetrics:
    """Of one line of commits: progress, or moves."""

    def __init__(self, metrics: "CheckpointMetrics", line: str) -> None:
        self.seconds = metrics.seconds.labels(line)
        self._size = metrics.sizes.labels(line)
        self._stored = metrics.commits.labels(line, "stored")
        self._refused = metrics.commits.labels(line, "refused")
        self._put_off = metrics.commits.labels(line, "put_off")
        self._metrics = metrics

    def answered(self, items: Sequence[CommitItem], results: Sequence[CommitResult]) -> None:
        """Count the answers to a group, and what has become of its runs."""
        self._size.observe(len(items))
        stored = 0
        for item, result in zip(items, results, strict=True):
            if isinstance(result, Refused):
                (self._put_off if result.retryable else self._refused).inc()
                continue
            stored += 1
            if item.move is not None:
                self._metrics.moved(item, result.status)
        self._stored.inc(stored)


class CheckpointMetrics:
    """Counts for all streams of a Checkpoint service together."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.seconds = histogram(
            registry,
            "holdfast_commit_duration_seconds",
            "From a commit's arrival to its answer, by line: progress, moves.",
            ["line"],
        )
        self.sizes = histogram(
            registry,
            "holdfast_commit_group_size",
            "Commits that were stored in one transaction, by line.",
            ["line"],
            buckets=SIZES,
        )
        self.commits = counter(
            registry,
            "holdfast_commits_total",
            "Commits answered, by line and answer: stored, refused (for good), put_off (to be sent again).",
            ["line", "answer"],
        )
        self.parked = counter(
            registry, "holdfast_runs_parked_total", "Runs that began to wait without a runner."
        )
        self.requeued = counter(
            registry,
            "holdfast_runs_requeued_total",
            "Runs that went back to the queue, by why: failed (an attempt), given_back, undoing.",
            ["why"],
        )
        ended = counter(registry, "holdfast_runs_ended_total", "Runs that ended, by status.", ["status"])
        self.ended = {status: ended.labels(status.name) for status in ENDED}

    def waits(self, waiting: Callable[[], int]) -> None:
        """Show how many commits wait to be stored."""
        asked(self._registry, "holdfast_commits_waiting", "Commits that wait to be stored.", waiting)

    def moved(self, item: CommitItem, status: RunStatus) -> None:
        """Count where a run went."""
        if status in ENDED:
            self.ended[status].inc()
        elif status is RunStatus.PARKED:
            self.parked.inc()
        elif isinstance(item.move, Park):
            return  # what it was to wait for was there already
        else:
            self.requeued.labels(_why(item)).inc()


def _why(item: CommitItem) -> str:
    blameless = getattr(item.move, "blameless", None)
    if blameless is None:
        return "undoing"
    return "given_back" if blameless else "failed"
