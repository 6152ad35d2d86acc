"""How far a runner was told the signals of its runs on one lease stream, and what waits to be told.

What is lost with the stream is no longer remembered as told: the runner's next stream tells it anew.
"""

from typing import Final
from uuid import UUID

from holdfast.invoker.signal import mailbox_signal
from holdfast.ledger.mailbox_view import Mail, Signal
from holdfast.v1 import work_service_pb2

MAX_BYTES: Final = 2 * 1024 * 1024
"""Bytes that wait to be told, beyond which nothing is added."""


class RunnerMail:
    """The signals for one runner. A run without an entry was told none."""

    def __init__(self) -> None:
        self._told: dict[UUID, int] = {}
        self._waiting: list[work_service_pb2.ArrivedSignal] = []
        self._bytes = 0

    def begin(self, run_id: UUID, last: int) -> None:
        """Note that the runner is told of a lease, and loads what was sent up to the sequence `last`."""
        self._told.pop(run_id, None)
        if last:
            self._told[run_id] = last

    def forget(self, run_id: UUID) -> None:
        """Note that the run is no longer with the runner. Repeatable."""
        self._told.pop(run_id, None)

    def told(self, run_id: UUID) -> int:
        """Return up to which sequence the runner knows, or loads, the signals of a run."""
        return self._told.get(run_id, 0)

    def add(self, signal: Signal, epoch: int, *, next_waiting: bool) -> bool:
        """Let a signal be told; false if too much waits.

        `next_waiting` says that nothing waits between this one and what was told before.
        """
        if self._bytes > MAX_BYTES:
            return False
        told = self.told(signal.run_id)
        if next_waiting or signal.sequence == told + 1:
            self._told[signal.run_id] = max(told, signal.sequence)
        lease = work_service_pb2.LeaseRef(run_id=str(signal.run_id), epoch=epoch)
        arrived = work_service_pb2.ArrivedSignal(lease=lease, signal=mailbox_signal(signal))
        self._waiting.append(arrived)
        self._bytes += arrived.ByteSize()
        return True

    def caught_up(self, mail: Mail) -> None:
        """Note that nothing waits for a run, up to its last signal, that was not told."""
        self._told[mail.run_id] = max(self.told(mail.run_id), mail.last)

    def take(self) -> list[work_service_pb2.ArrivedSignal]:
        """Return what is to be told now."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        return waiting
