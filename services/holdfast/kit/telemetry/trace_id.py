"""The trace of a run after its nth wait is the same for everybody, without anybody having kept it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

_chosen: ContextVar[int] = ContextVar("holdfast_trace_id", default=0)


def trace_of(run_id: str, waits: int) -> int:
    """Return the id of the trace of a run that has waited so often."""
    digest = hashlib.blake2b(f"{run_id}/{waits}".encode(), digest_size=16).digest()
    return int.from_bytes(digest, "big") or 1


@contextmanager
def chosen(trace_id: int) -> Iterator[None]:
    """Let a span that is started in the block, and that has no parent, begin this trace."""
    token = _chosen.set(trace_id)
    try:
        yield
    finally:
        _chosen.reset(token)


class ChosenIds(RandomIdGenerator):
    """Random ids, but for the trace that was chosen."""

    def generate_trace_id(self) -> int:
        """Return the id of a new trace."""
        return _chosen.get() or super().generate_trace_id()
