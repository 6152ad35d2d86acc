"""The events of one run since its lease began, kept for those who follow it, never more than a bound."""

from collections.abc import Callable

from holdfast.v1.transcript_pb2 import RunEvent

MAX_EVENTS = 10_000
MAX_BYTES = 4 * 1024 * 1024
_SLACK = 256
"""Events beyond the bound before the oldest are dropped, all at once: dropping one by one would cost."""


class RunMemory:
    """Knows what happened, and tells listeners that there is more; they read it at their own pace.

    listening ──(the run left)──▶ gone
    """

    __slots__ = ("_bytes", "_events", "_sizes", "committed", "ended", "gone", "listeners", "run_id")

    def __init__(self, run_id: str, last_sequence: int) -> None:
        self.run_id = run_id
        self.committed = last_sequence
        self.gone = False
        self.ended = False
        self.listeners: set[Callable[[RunMemory], None]] = set()
        self._events: list[RunEvent] = []
        self._sizes: list[int] = []
        self._bytes = 0

    @property
    def first(self) -> int:
        """The sequence of the oldest event kept, or of the next one."""
        return self._events[0].sequence if self._events else self.committed + 1

    def append(self, event: RunEvent) -> None:
        """Take an event in; the oldest make room."""
        size = event.ByteSize()
        self._events.append(event)
        self._sizes.append(size)
        self._bytes += size
        if self._bytes > MAX_BYTES or len(self._events) > MAX_EVENTS + _SLACK:
            self._make_room()
        if self.listeners:
            self._tell()

    def after(self, sequence: int, limit: int, limit_bytes: int) -> list[RunEvent] | None:
        """Return events after a sequence, or None if some of them are no longer kept.

        At most `limit`, and of `limit_bytes` together; but one at least if there is any.
        """
        start = sequence + 1 - self.first
        if start < 0:
            return None
        stop = min(start + limit, len(self._events))
        size = 0
        for place in range(start, stop):
            size += self._sizes[place]
            if size > limit_bytes and place > start:
                stop = place
                break
        return self._events[start:stop]

    def leave(self, *, ended: bool) -> None:
        """Say that the run is no longer here; `ended` if its end was acknowledged."""
        self.gone = True
        self.ended = ended
        self._tell()

    def _make_room(self) -> None:
        drop = max(0, len(self._events) - MAX_EVENTS)
        left = self._bytes - sum(self._sizes[:drop])
        while left > MAX_BYTES * 3 // 4 and drop < len(self._events) - 1:
            left -= self._sizes[drop]
            drop += 1
        del self._events[:drop]
        del self._sizes[:drop]
        self._bytes = left

    def _tell(self) -> None:
        for listener in tuple(self.listeners):
            listener(self)
