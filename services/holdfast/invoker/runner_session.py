"""One connected runner: its credit, what it was told to run, and what waits to be sent to it."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TypeVar
from uuid import UUID

from holdfast.invoker.assignment import leased_assignment
from holdfast.invoker.runner_capability import RunnerCapabilities
from holdfast.invoker.runner_mail import RunnerMail
from holdfast.kit.errors import Fault
from holdfast.ledger.mailbox_view import Mail, Signal
from holdfast.ledger.values import Leased, LeaseRef, ServedIntent
from holdfast.v1 import work_service_pb2

_ITEMS_PER_MESSAGE = 64
# A payload may have 1 MiB and a message at most 4: a list of runs must always arrive.
_BYTES_PER_MESSAGE = 2 * 1024 * 1024
_KEPT = 16
_MANY = 20_000
_MANY_CAPABILITIES = 1_000

T = TypeVar("T", work_service_pb2.Assignment, work_service_pb2.ArrivedSignal)


class RunnerSession:
    """One connected runner: its credit, what it was told to run, and what waits to be sent to it.

    Credit whose use had no answer is withheld until the ledger has said what the runner holds (`settle`).
    """

    def __init__(
        self,
        session_id: UUID,
        address: str,
        intents: tuple[ServedIntent, ...],
        attach_token: str = "",
    ) -> None:
        self.session_id = session_id
        self.attach_token = attach_token
        self.address = address
        self.intents = intents
        self.credit = 0
        self.heard = time.monotonic()
        self.renewed = float("-inf")
        self.closed = False
        self._withheld: int | None = None
        self._told: dict[UUID, int] = {}
        self.mail = RunnerMail()
        self.capabilities = RunnerCapabilities()
        self._fault: Fault | None = None
        self._outgoing: list[work_service_pb2.LeaseResponse] = []
        self._assignments: list[work_service_pb2.Assignment] = []
        self._changed = asyncio.Event()

    @property
    def kept(self) -> int:
        """Credit that only light tenants may use where there are several: a sixteenth of all slots."""
        return min(self.credit, (self.credit + len(self._told)) // _KEPT)

    @property
    def in_doubt(self) -> bool:
        """Whether the ledger must be asked what this runner holds."""
        return self._withheld is not None or len(self._told) > _MANY

    def lease(self, lease: Leased) -> bool:
        """Push a run to the runner, together with others of this tick; False if it was told before."""
        if self._told.get(lease.run_id) == lease.epoch:
            return False
        self._told[lease.run_id] = lease.epoch
        self.mail.begin(lease.run_id, lease.mail_last)
        assignment = leased_assignment(lease)
        assignment.capability = self.capabilities.issue(lease.run_id, lease.tenant, lease.epoch)
        self._assignments.append(assignment)
        self._changed.set()
        return True

    def cancel(self, run_id: UUID, epoch: int, reason: str) -> None:
        """Tell the runner to stop a run."""
        ref = work_service_pb2.LeaseRef(run_id=str(run_id), epoch=epoch)
        self._tell(
            work_service_pb2.LeaseResponse(cancel=work_service_pb2.CancelAsked(leases=[ref], reason=reason))
        )

    def pause(self, run_id: UUID, epoch: int) -> None:
        """Tell the runner to give a run back before its next step."""
        ref = work_service_pb2.LeaseRef(run_id=str(run_id), epoch=epoch)
        self._tell(work_service_pb2.LeaseResponse(pause=work_service_pb2.PauseAsked(leases=[ref])))

    def signal(self, signal: Signal, epoch: int, *, next_waiting: bool = False) -> bool:
        """Push a signal to the runner; false if it was not told of this lease, or does not keep up."""
        if self._told.get(signal.run_id) != epoch:
            return False
        if not self.mail.add(signal, epoch, next_waiting=next_waiting):
            return False
        self._changed.set()
        return True

    def lacks(self, mail: Mail) -> bool:
        """Say whether the runner was told of this lease, and not yet of all its signals."""
        return self._told.get(mail.run_id) == mail.epoch and self.mail.told(mail.run_id) < mail.last

    def revoke(self, lease: LeaseRef) -> None:
        """Tell the runner that a lease is no longer its own."""
        self._forget(lease.run_id)
        ref = work_service_pb2.LeaseRef(run_id=str(lease.run_id), epoch=lease.epoch)
        self._tell(work_service_pb2.LeaseResponse(revoked=work_service_pb2.LeasesRevoked(leases=[ref])))

    def renew(self) -> None:
        """Send new capabilities for those that are half over."""
        renewed = self.capabilities.renewed(self._told)
        for start in range(0, len(renewed), _MANY_CAPABILITIES):
            part = renewed[start : start + _MANY_CAPABILITIES]
            message = work_service_pb2.CapabilitiesRenewed(capabilities=part)
            self._tell(work_service_pb2.LeaseResponse(renewed=message))

    def drain(self, grace: float) -> None:
        """Tell the runner to open a stream elsewhere."""
        draining = work_service_pb2.SessionDraining()
        draining.grace.FromMilliseconds(int(grace * 1000))
        self._tell(work_service_pb2.LeaseResponse(draining=draining))

    def left(self, run_ids: Iterable[UUID]) -> None:
        """Note that runs are no longer with the runner."""
        for run_id in run_ids:
            self._forget(run_id)

    def withhold(self, slots: int) -> None:
        """Keep credit back: runs may have been leased to it of which nobody has told it."""
        self._withheld = (self._withheld or 0) + slots

    def settle(self, held: Sequence[Leased], asked: "Doubt") -> None:
        """End a doubt: push what the runner holds and was not told, and free the credit not used for it."""
        found = sum(self.lease(lease) for lease in held)
        holds = {lease.run_id for lease in held}
        self.left(run_id for run_id in asked.told if run_id not in holds)
        if self._withheld is not None:
            self.credit += max(0, asked.withheld - found)
            later = self._withheld - asked.withheld
            self._withheld = later or None

    def doubt(self) -> "Doubt":
        """Return what is in doubt now, before the ledger is asked."""
        return Doubt(tuple(self._told), self._withheld or 0)

    def close(self, fault: Fault | None = None) -> None:
        """End the runner's stream after what is already waiting, with `fault` if there is one. Repeatable."""
        self.closed = True
        self._fault = self._fault or fault
        self._changed.set()

    async def messages(self) -> AsyncIterator[work_service_pb2.LeaseResponse]:
        """Yield what the runner must be told, until the session is closed."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            outgoing, self._outgoing = self._outgoing, []
            assignments, self._assignments = self._assignments, []
            for message in outgoing:
                yield message
            for part in _parts(assignments):
                pushed = work_service_pb2.LeaseResponse()
                pushed.leased.assignments.extend(part)
                yield pushed
            # After the assignments: a runner keeps no signal of a run that it does not know.
            for some in _parts(self.mail.take()):
                yield work_service_pb2.LeaseResponse(signals=work_service_pb2.SignalsArrived(signals=some))
            if self.closed and not self._outgoing and not self._assignments:
                if self._fault is not None:
                    raise self._fault
                return

    def _forget(self, run_id: UUID) -> None:
        self._told.pop(run_id, None)
        self.mail.forget(run_id)
        self.capabilities.forget(run_id)

    def _tell(self, message: work_service_pb2.LeaseResponse) -> None:
        self._outgoing.append(message)
        self._changed.set()


class Doubt:
    """What a runner had been told, and what of its credit was withheld, before the ledger was asked."""

    __slots__ = ("told", "withheld")

    def __init__(self, told: tuple[UUID, ...], withheld: int) -> None:
        self.told = told
        self.withheld = withheld


def _parts(items: Sequence[T]) -> Iterable[list[T]]:
    """Divide assignments or signals into lists that fit into a message."""
    part: list[T] = []
    size = 0
    for item in items:
        bytes_of = item.ByteSize()
        if part and (len(part) == _ITEMS_PER_MESSAGE or size + bytes_of > _BYTES_PER_MESSAGE):
            yield part
            part, size = [], 0
        part.append(item)
        size += bytes_of
    if part:
        yield part
