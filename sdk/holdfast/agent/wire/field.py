"""Small parts of messages, written in place: nothing is built only to be copied."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.agent.budget import Limits, Usage
from holdfast.agent.error import Failure
from holdfast.v1 import run_pb2

GIGA = 1_000_000_000


def write_duration(target: Duration, seconds: float) -> None:
    """Put seconds into a message."""
    whole = int(seconds)
    target.seconds = whole
    target.nanos = int((seconds - whole) * GIGA)


def write_time(target: Timestamp, nanoseconds: int) -> None:
    """Put nanoseconds of Unix time into a message."""
    target.seconds, target.nanos = divmod(nanoseconds, GIGA)


def write_usage(target: run_pb2.Usage, usage: Usage) -> None:
    """Put what was spent into a message."""
    target.steps = usage.steps
    if usage.tools:
        target.tools = usage.tools
    if usage.tokens:
        target.tokens = usage.tokens
        target.context = usage.context


def write_budget(target: run_pb2.Budget, limits: Limits) -> None:
    """Put limits into a message."""
    target.deadline_ms = round(limits.deadline * 1000)
    target.max_steps = limits.steps
    target.max_tools = limits.tools
    target.max_tokens = limits.tokens
    target.max_context = limits.context


def write_failure(target: run_pb2.Failure, failure: Failure) -> None:
    """Put why something failed into a message."""
    target.reason = failure.reason
    target.message = failure.message
    target.step = failure.step
    target.attempts = failure.attempts
