"""What arrives while a group of commits is being stored is the next group; a lone commit goes at once.

A large group is followed by a rest (`kit.rest`), so that under load groups are large. One line for the whole
process, not one per stream: what matters is how many commits share a COMMIT. Plain progress and moves have a
line each, so that the quick ones never wait for the thorough ones.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from prometheus_client import CollectorRegistry

from holdfast.checkpoint.metrics import PROGRESS, CheckpointMetrics, LineMetrics
from holdfast.kit import crash_point
from holdfast.kit.errors import Fault, Internal
from holdfast.kit.rest import Rest
from holdfast.kit.telemetry import span
from holdfast.kit.telemetry.logs import logger
from holdfast.kit.telemetry.metrics import timed
from holdfast.ledger.commit_value import CommitItem, CommitResult, Refused, Stored
from holdfast.ledger.domain.status import RunStatus

_log: Final = logger("group")

MAX_COMMITS: Final = 256
MAX_BYTES: Final = 4 * 1024 * 1024

Store = Callable[[Sequence[CommitItem]], Awaitable[list[CommitResult]]]


class Sender(Protocol):
    """Whoever brought a commit and waits for its answer."""

    def answer(self, item: CommitItem, size: int, result: CommitResult) -> None:
        """Take the answer; must neither raise nor wait."""


_Waiting = tuple[CommitItem, int, Sender, int]
"""The last is when it was put, in nanoseconds of Unix time."""


class Line:
    """Commits of one kind, stored group by group.

    waiting ──put──▶ storing a group ──(more have arrived)──▶ resting ──▶ storing the next
       └──(closed, empty)──▶ ended                 └──(it has left some)──▶ storing the next
    """

    def __init__(self, store: Store, metrics: LineMetrics | None = None) -> None:
        self._store = store
        self._metrics = metrics or LineMetrics(CheckpointMetrics(CollectorRegistry()), PROGRESS)
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._rest = Rest()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, item: CommitItem, size: int, sender: Sender) -> None:
        """Queue a commit; its sender is answered exactly once, unless this process dies."""
        self._waiting.append((item, size, sender, time.time_ns()))
        self._arrived.set()

    def close(self) -> None:
        """Let `run` end once everything that was put is answered; repeatable."""
        self._closed = True
        self._arrived.set()

    async def run(self) -> None:
        """Store groups until closed and empty."""
        while True:
            if self._waiting:
                await self._rest.end()
                group = self._take()
                more = bool(self._waiting)
                await self._round(group)
                if not more:
                    self._rest.begin(len(group))
            elif self._closed:
                return
            else:
                self._arrived.clear()
                await self._arrived.wait()

    def _take(self) -> list[_Waiting]:
        """Take what waits, in order, up to a group's limits; at least one, and of each run at most one."""
        waiting = self._waiting
        group: list[_Waiting] = []
        later: list[_Waiting] = []
        runs: set[int] = set()
        room = MAX_BYTES
        while waiting and len(group) < MAX_COMMITS:
            entry = waiting.popleft()
            run, size = entry[0].run_id.int, entry[1]
            if run in runs:
                later.append(entry)
            elif group and size > room:
                waiting.appendleft(entry)
                break
            else:
                group.append(entry)
                runs.add(run)
                room -= size
        waiting.extendleft(reversed(later))
        return group

    async def _round(self, group: list[_Waiting]) -> None:
        items = [item for item, *_ in group]
        crash_point.reach("checkpoint.before_commit")
        try:
            results = await self._store(items)
        except Fault as fault:  # the ledger is away: what was stored is recognised when it is sent again
            _log.warning("group not stored", commits=len(items), reason=fault.reason)
            results = [Refused(fault, retryable=True)] * len(items)
        except Exception as error:  # noqa: BLE001 - one group's failure is not the end of the line
            results = [Refused(_unexpected(error, len(items)), retryable=True)] * len(items)
        crash_point.reach("checkpoint.after_commit")
        for (item, size, sender, _), result in zip(group, results, strict=True):
            sender.answer(item, size, result)
        # Once the answers are being written: nobody waits for what is counted.
        asyncio.get_running_loop().call_soon(self._tell, group, results, time.time_ns())

    def _tell(self, group: Sequence[_Waiting], results: Sequence[CommitResult], now: int) -> None:
        """Count the answers to a group."""
        self._metrics.answered([item for item, *_ in group], results)
        for (item, _, _, put_ns), result in zip(group, results, strict=True):
            self._tell_one(item, result, put_ns, now, len(group))

    def _tell_one(self, item: CommitItem, result: CommitResult, put_ns: int, now: int, together: int) -> None:
        """Tell how long an answer took, and in the run's trace how many shared it."""
        timed(self._metrics.seconds, max(0, now - put_ns) / 1e9, item.traceparent)
        if isinstance(result, Stored) and result.status is RunStatus.DEAD_LETTERED:
            _log.warning("run dead-lettered", **item.about)
        if not item.traceparent or not span.is_sampled(item.traceparent):
            return
        attributes: dict[str, str | int] = {
            span.RUN_ID: str(item.run_id),
            span.EPOCH: item.epoch,
            "holdfast.commit.number": item.number,
            "holdfast.commit.group_size": together,
        }
        if item.correlation_id:
            attributes[span.CORRELATION_ID] = item.correlation_id
        told = span.start("store", under=item.traceparent, attributes=attributes, start_ns=put_ns)
        if isinstance(result, Refused):
            span.failed(told, result.fault.reason)
        told.end(now)


def _unexpected(error: Exception, commits: int) -> Internal:
    error_id = secrets.token_hex(8)
    _log.error("group failed", error=error, commits=commits, error_id=error_id)
    return Internal(f"Unexpected error {error_id}.", facts={"error_id": error_id})
