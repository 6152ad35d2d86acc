"""A queue in plain Python, as simple as its promise: what the ledger must agree with after each verb."""

import uuid
from collections import Counter
from dataclasses import dataclass, field

from holdfast.ledger.domain.status import ENDED, RunStatus


@dataclass
class ModelRun:
    """One run."""

    run_id: uuid.UUID
    tenant: str
    key: str
    ordering_key: str
    rank: int
    seq: int
    pool: str
    max_attempts: int
    delayed: bool
    status: RunStatus = RunStatus.QUEUED
    attempt: int = 0
    epoch: int = 0
    session: uuid.UUID | None = None
    cancel_requested: bool = False
    may_hand_off: bool = False
    handed_off: bool = False
    user: str = ""
    mail: list[str] = field(default_factory=list)
    """The signals that wait, in order of arrival."""
    known_signals: set[str] = field(default_factory=set)

    @property
    def place(self) -> tuple[int, int]:
        """Its place among the tenant's ready runs of its pool."""
        return (self.rank, self.seq)


@dataclass
class ModelSession:
    """What a session holds, who wrote it, and what that run had found if it ended PARTIAL."""

    state: bytes
    version: int
    run_id: uuid.UUID
    before: bytes


@dataclass
class Model:
    """All runs, who holds which ordering key or session, and what sessions hold."""

    caps: dict[str, int]
    depths: dict[str, int]
    user_caps: dict[str, int] = field(default_factory=dict)
    """The cap of each user of a tenant; a tenant that is not there has none."""
    runs: dict[uuid.UUID, ModelRun] = field(default_factory=dict)
    keys: dict[tuple[str, str], uuid.UUID] = field(default_factory=dict)
    lanes: dict[tuple[str, str], uuid.UUID] = field(default_factory=dict)
    sessions: dict[tuple[str, str], ModelSession] = field(default_factory=dict)

    def of(self, tenant: str, *statuses: RunStatus) -> list[ModelRun]:
        """Return a tenant's runs in a status."""
        return [run for run in self.runs.values() if run.tenant == tenant and run.status in statuses]

    def in_flight(self, tenant: str) -> int:
        """Count its leases."""
        return len(self.of(tenant, RunStatus.RUNNING))

    def room(self, tenant: str) -> int:
        """Say how many more it may have leased."""
        return self.caps[tenant] - self.in_flight(tenant)

    def user_room(self, tenant: str, user: str) -> int:
        """Say how many more of a user may be leased."""
        if not user or tenant not in self.user_caps:
            return self.room(tenant)
        held = [run for run in self.of(tenant, RunStatus.RUNNING) if run.user == user]
        return max(0, self.user_caps[tenant] - len(held))

    def takeable(self, tenant: str, pools: set[str]) -> int:
        """Say how many runs of a tenant could be leased now."""
        waiting = Counter(run.user for run in self.ready(pools) if run.tenant == tenant)
        able = sum(min(n, self.user_room(tenant, user)) for user, n in waiting.items())
        return min(self.room(tenant), able)

    def queue_full(self, tenant: str) -> bool:
        """Say whether no more may wait."""
        return len(self.of(tenant, RunStatus.QUEUED)) >= self.depths[tenant]

    def is_ready(self, run: ModelRun) -> bool:
        """Say whether a runner may take it now."""
        return run.status is RunStatus.QUEUED and not run.delayed and self.holds_lane(run)

    def holds_lane(self, run: ModelRun) -> bool:
        """Say whether none of its key is before it."""
        return not run.ordering_key or self.lanes.get((run.tenant, run.ordering_key)) == run.run_id

    def ready(self, pools: set[str] | None = None) -> list[ModelRun]:
        """Return what may be taken, of these pools."""
        return [r for r in self.runs.values() if self.is_ready(r) and (pools is None or r.pool in pools)]

    def add(self, run: ModelRun) -> None:
        """Let a run in."""
        self.runs[run.run_id] = run
        self.keys[run.tenant, run.key] = run.run_id
        if run.ordering_key:
            self.lanes.setdefault((run.tenant, run.ordering_key), run.run_id)

    def lease(self, run: ModelRun, session: uuid.UUID, next_pool: str) -> None:
        """Give it to a runner."""
        assert self.is_ready(run), f"{run} was not ready"
        assert self.room(run.tenant) > 0, f"{run.tenant} was at its cap"
        assert self.user_room(run.tenant, run.user) > 0, f"{run.user} was at his cap"
        run.status, run.session, run.pool = RunStatus.RUNNING, session, next_pool
        run.attempt += 1
        run.epoch += 1

    def requeue(self, run: ModelRun, *, delayed: bool = False, attempt: int | None = None) -> None:
        """Put a leased run back; it keeps its lane."""
        run.status, run.session, run.delayed = RunStatus.QUEUED, None, delayed
        run.attempt = run.attempt if attempt is None else attempt

    def end(self, run: ModelRun, status: RunStatus) -> None:
        """End it and pass its lane to the oldest behind it."""
        assert status in ENDED
        run.status, run.session, run.delayed = status, None, False
        run.mail.clear()
        run.known_signals.clear()
        lane = (run.tenant, run.ordering_key)
        if run.ordering_key and self.lanes.get(lane) == run.run_id:
            behind = [r for r in self.of(run.tenant, RunStatus.QUEUED) if r.ordering_key == run.ordering_key]
            if behind:
                self.lanes[lane] = min(behind, key=lambda r: r.seq).run_id
            else:
                del self.lanes[lane]

    def found(self, run: ModelRun) -> tuple[bytes, int]:
        """Say what a run finds in its session."""
        held = self.sessions.get((run.tenant, run.ordering_key))
        if held is None:
            return b"", 0
        return (held.before if held.run_id == run.run_id else held.state), held.version

    def save(self, run: ModelRun, state: bytes, status: RunStatus) -> None:
        """Leave something in its session."""
        found, version = self.found(run)
        before = found if status is RunStatus.PARTIAL else b""
        self.sessions[run.tenant, run.ordering_key] = ModelSession(state, version + 1, run.run_id, before)

    def retry(self, run: ModelRun) -> None:
        """Start an ended run again."""
        run.status, run.attempt, run.cancel_requested = RunStatus.QUEUED, 0, False
        run.epoch += 1
        if run.ordering_key:
            self.lanes.setdefault((run.tenant, run.ordering_key), run.run_id)
