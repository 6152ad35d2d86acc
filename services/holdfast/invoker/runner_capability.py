"""The capabilities that one runner was given for its leases, and when each is to be made anew."""

import time
from collections.abc import Mapping
from uuid import UUID

from holdfast.kit.auth.capability import Capabilities, Capability
from holdfast.v1 import work_service_pb2


class RunnerCapabilities:
    """Without identity `made_by` is None, and nothing is given."""

    def __init__(self) -> None:
        self.made_by: Capabilities | None = None
        self._tenants: dict[UUID, str] = {}
        self._renew_at: dict[UUID, float] = {}
        self._next = 0.0

    def issue(self, run_id: UUID, tenant: str, epoch: int) -> str:
        """Make the capability of a lease; empty without identity."""
        if self.made_by is None:
            return ""
        self._tenants[run_id] = tenant
        self._renew_at[run_id] = time.monotonic() + self.made_by.life / 2
        return self.made_by.issue(Capability(tenant, run_id, epoch))

    def forget(self, run_id: UUID) -> None:
        """Note that a run is no longer with the runner. Repeatable."""
        self._tenants.pop(run_id, None)
        self._renew_at.pop(run_id, None)

    def renewed(self, epochs: Mapping[UUID, int]) -> list[work_service_pb2.RenewedCapability]:
        """Return new capabilities for leases (run → epoch) whose own is half over; looks seldom."""
        now = time.monotonic()
        if self.made_by is None or now < self._next:
            return []
        self._next = now + self.made_by.life / 8
        due = [run_id for run_id, moment in self._renew_at.items() if moment <= now and run_id in epochs]
        return [
            work_service_pb2.RenewedCapability(
                lease=work_service_pb2.LeaseRef(run_id=str(run_id), epoch=epochs[run_id]),
                capability=self.issue(run_id, self._tenants[run_id], epochs[run_id]),
            )
            for run_id in due
        ]
