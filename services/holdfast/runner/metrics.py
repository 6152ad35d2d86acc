"""The metrics of a runner: what its runs do, and how long their commits and models take."""

from collections.abc import Callable, Sized
from typing import Final

from prometheus_client import CollectorRegistry

from holdfast.kit.telemetry.metrics import (
    SLOW,
    Bounded,
    asked,
    counter,
    histogram,
)

OUTCOMES: Final = ("succeeded", "failed", "stopped")


class RunnerMetrics:
    """Counts for all runs of a runner together."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.activations = counter(
            registry,
            "holdfast_activations_total",
            "Runs that left this runner, by intent and how: ended, requeued (parked, or to be tried again), "
            "lost (the lease is another's), refused (even the end).",
            ["intent", "left"],
        )
        seconds = histogram(
            registry,
            "holdfast_step_duration_seconds",
            "How long executed steps took with all tries, by kind and outcome: succeeded, failed, stopped.",
            ["kind", "outcome"],
            buckets=SLOW,
        )
        self.steps = {
            kind: {outcome: seconds.labels(kind, outcome) for outcome in OUTCOMES}
            for kind in ("function", "model", "tool")
        }
        self.retries = counter(
            registry,
            "holdfast_step_retries_total",
            "Tries that failed and were followed by another.",
            ["kind"],
        )
        self.commit_seconds = histogram(
            registry,
            "holdfast_commit_round_trip_seconds",
            "From a commit's being sent to its acknowledgement, reconnections and repetitions included.",
        )
        self.commits_refused = counter(
            registry, "holdfast_commits_refused_total", "Commits that will never land, by reason.", ["reason"]
        )
        self.model_seconds = Bounded(
            histogram(
                registry,
                "holdfast_model_call_duration_seconds",
                "How long calls of models took, by the model asked and outcome: succeeded, failed, stopped.",
                ["model", "outcome"],
                buckets=SLOW,
            ).labels
        )
        self.model_tokens = Bounded(
            counter(
                registry,
                "holdfast_model_tokens_total",
                "Tokens of calls that were answered, by the model asked and direction: input, output.",
                ["model", "direction"],
            ).labels
        )

    def holds(self, held: Sized, free: Callable[[], int]) -> None:
        """Show how many runs are held, and how many more there is room for."""
        asked(self._registry, "holdfast_runs_held", "Runs that this runner holds now.", lambda: len(held))
        asked(self._registry, "holdfast_slots_free", "Runs that it could take beside.", free)
