"""One runner's stream of commits is bounded in what is open, and cut if its answers are left unread."""

import asyncio
from typing import Final

from holdfast.kit.errors import Fault
from holdfast.ledger.commit_value import CommitItem, CommitResult, Stored
from holdfast.v1.checkpoint_pb2 import Commit
from holdfast.v1.checkpoint_service_pb2 import CommitAnswer, CommitRefused

MAX_OPEN: Final = 4096
"""Commits taken from one stream and not yet answered to its reader; a runner has at most one per run."""
MAX_OPEN_BYTES: Final = 16 * 1024 * 1024


class CommitStream:
    """Counts what is open on a stream and collects its answers until the writer takes them.

    Open are commits from their arrival to the moment gRPC has taken their answer.
    """

    def __init__(self) -> None:
        self._answers: list[CommitAnswer] = []
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._open = 0
        self._open_bytes = 0
        self._ended = False

    def opened(self, size: int) -> None:
        """Count a commit that was taken from the stream."""
        self._open += 1
        self._open_bytes += size

    def answer(self, item: CommitItem, size: int, result: CommitResult) -> None:
        """Take the ledger's answer to a commit."""
        self._open_bytes -= size
        self._room.set()
        answer = CommitAnswer(run_id=str(item.run_id), epoch=item.epoch, number=item.number)
        if isinstance(result, Stored):
            committed = answer.committed
            committed.status = int(result.status)  # type: ignore[assignment]
            committed.cancel_requested = result.cancel_requested
        else:
            answer.refused.CopyFrom(_refused(result.fault, retryable=result.retryable))
        self._give(answer)

    def refuse(self, commit: Commit, fault: Fault) -> None:
        """Refuse a commit at the door; it was counted as opened with size 0."""
        refused = _refused(fault, retryable=False)
        self._give(
            CommitAnswer(run_id=commit.run_id, epoch=commit.epoch, number=commit.number, refused=refused)
        )

    def end(self) -> None:
        """Say that nothing more will be taken: `next_answers` ends after the last answer."""
        self._ended = True
        self._changed.set()

    async def next_answers(self) -> list[CommitAnswer]:
        """Wait for answers and take all there are; an empty list is the end of the stream."""
        while not self._answers:
            if self._ended and self._open == 0:
                return []
            self._changed.clear()
            await self._changed.wait()
        answers, self._answers = self._answers, []
        return answers

    def sent(self, answers: int) -> None:
        """Count answers that gRPC has taken."""
        self._open -= answers
        self._room.set()

    async def room(self) -> None:
        """Wait until more may be taken."""
        while self._open >= MAX_OPEN or self._open_bytes >= MAX_OPEN_BYTES:
            self._room.clear()
            await self._room.wait()

    def _give(self, answer: CommitAnswer) -> None:
        self._answers.append(answer)
        self._changed.set()


def _refused(fault: Fault, *, retryable: bool) -> CommitRefused:
    message = fault.message
    if fault.violations:
        message = (
            f"{message} {'; '.join(f'{wrong.field} {wrong.description}' for wrong in fault.violations[:8])}"
        )
    return CommitRefused(reason=fault.reason, message=message, retryable=retryable)
