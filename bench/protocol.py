"""One question as command line arguments, the answer as JSON lines: the same for us and for every peer.

Standard library only: peers import this module from environments of their own.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

WORKLOADS = ("w1", "w2")
_MEASURES = (
    "latency",
    "recovery",
    "claim_depth",
    "churn",
    "first_event",
    "token_relay",
    "streams",
    "cancel",
    "parked",
    "wake",
    "resume",
    "decision",
    "batch_apply",
    "batch_runs",
    "batch_light",
    "console_runs",
    "idle",
    "light",
    "effects",
    "event_to_start",
    "events",
    "overload",
)


@dataclass(frozen=True)
class Question:
    """What is to be measured, and how much of it."""

    measure: str  # throughput, or one of _MEASURES, with hyphens
    workload: str
    runs: int
    concurrency: int
    variant: str
    repeatable: bool


def read_question(arguments: list[str] | None = None) -> Question:
    """Read the question from the command line; exits with status 2 if it is none."""
    parser = argparse.ArgumentParser(description="Answer one question of the benchmark with JSON lines.")
    parser.add_argument("--workload", choices=WORKLOADS, default="w1", help="w1: three steps; w2: one step")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=64, help="runs in flight at once")
    parser.add_argument("--variant", default="", help="a contender's own way of doing the same work")
    parser.add_argument("--repeatable", action="store_true", help="steps may be executed again after a crash")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--latency", action="store_true", help="single runs, one after another")
    what.add_argument("--recovery", action="store_true", help="kill the runner in the middle of a run")
    what.add_argument("--claim-depth", action="store_true", help="claim cost at 1e6 queued against 1e3")
    what.add_argument("--churn", action="store_true", help="claim cost before and after much came and went")
    what.add_argument(
        "--first-event", action="store_true", help="from a conversation's start to its first event"
    )
    what.add_argument("--token-relay", action="store_true", help="a token's way to the client")
    what.add_argument("--streams", action="store_true", help="gaps between tokens of 500 runs at once")
    what.add_argument("--cancel", action="store_true", help="from a cancel to the end of the model's answer")
    what.add_argument("--parked", action="store_true", help="what 100,000 parked runs cost in a minute")
    what.add_argument("--wake", action="store_true", help="10,000 runs that fall due at once")
    what.add_argument("--resume", action="store_true", help="from a signal to the step after 1,000 others")
    what.add_argument("--idle", action="store_true", help="transactions of each process at rest")
    what.add_argument("--light", action="store_true", help="waits of a tenant beside a noisy one")
    what.add_argument("--effects", action="store_true", help="effects delivered by one dispatcher")
    what.add_argument("--event-to-start", action="store_true", help="from a staged event to its run")
    what.add_argument("--events", action="store_true", help="events taken in")
    what.add_argument("--overload", action="store_true", help="three times the peak is asked for")
    what.add_argument("--decision", action="store_true", help="from a decision to the step after it")
    what.add_argument("--batch-apply", action="store_true", help="50,000 staged items to effects")
    what.add_argument("--batch-runs", action="store_true", help="a batch's items a second, each a run")
    what.add_argument("--batch-light", action="store_true", help="a batch's items a second, light ones")
    what.add_argument("--console-runs", action="store_true", help="the console's list of 100,000 runs")
    given = parser.parse_args(arguments)
    asked = [name for name in _MEASURES if getattr(given, name)]
    return Question(
        measure=(asked[0] if asked else "throughput").replace("_", "-"),
        workload=given.workload,
        runs=given.runs,
        concurrency=given.concurrency,
        variant=given.variant,
        repeatable=given.repeatable,
    )


def answer(**facts: Any) -> None:
    """Print one line of the answer."""
    print(json.dumps(facts), flush=True)


def decline(reason: str) -> NoReturn:
    """Say in one sentence why this question has no answer here, and end well."""
    answer(unsupported=reason)
    sys.exit(0)
