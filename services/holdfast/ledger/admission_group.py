"""What is decided about each invocation of a group, on facts that cannot move meanwhile."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from holdfast.kit.errors import IdempotencyKeyReused, QueueFull, RateLimited, RunIdTaken
from holdfast.ledger.domain.admission import Door, Where
from holdfast.ledger.domain.batch import named_intent
from holdfast.ledger.domain.budget import NOTHING_SPENT, Limits
from holdfast.ledger.domain.rate import Pace
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.values import Admitted, Invocation, Leased, Refused, limits_of, pool_of

Answer = Admitted | Refused
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Server:
    """A runner session that serves a pool, and the version of its code."""

    session_id: UUID
    agent_version: str


@dataclass(frozen=True, slots=True)
class Placements:
    """Who could take new runs at once: the sessions of each pool, and how many runs each can take in all.

    Beside that they can take what is `kept` for light tenants: see `domain.admission.Door`.
    """

    servers: Mapping[str, Sequence[Server]] = field(default_factory=dict)
    credit: Mapping[UUID, int] = field(default_factory=dict)
    kept: Mapping[UUID, int] = field(default_factory=dict)

    def idlest(self, pool: str, credit: Mapping[UUID, int]) -> Server | None:
        """Return the server of a pool with the most `credit` left; None if none has any."""
        able = [server for server in self.servers.get(pool, ()) if credit.get(server.session_id, 0) > 0]
        return max(able, key=lambda server: credit[server.session_id], default=None)


@dataclass(frozen=True, slots=True)
class TenantDoor:
    """A tenant's queue, how fast it may fill, and what its runs' missing limits become."""

    door: Door
    pace: Pace
    defaults: Limits
    capped_intents: frozenset[str] = frozenset()
    """Those whose runs only a claim may lease, which counts what is in flight."""
    by_user: bool = False
    """Users have caps: only a claim may lease what names one."""

    def counts(self, invocation: Invocation) -> bool:
        """Say whether a run counts against a cap other than the tenant's."""
        return named_intent(invocation.intent) in self.capped_intents or (
            self.by_user and invocation.user != ""
        )


@dataclass(slots=True)
class Facts:
    """What the group's decision stands on, read under the tenants' locks."""

    now: datetime = _NEVER
    known: dict[int, tuple[UUID, bytes]] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)
    held: set[int] = field(default_factory=set)
    busy: set[str] = field(default_factory=set)
    alive: set[UUID] = field(default_factory=set)
    seqs: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Entry:
    """A new run, as it is about to be written."""

    invocation: Invocation
    seq: int
    pool: str
    where: Where
    limits: Limits
    not_before: datetime | None
    deadline: datetime
    agent_version: str
    runner_session: UUID | None


class Group:
    """The invocations of one transaction and what is decided about each."""

    def __init__(self, invocations: Sequence[Invocation], placements: Placements) -> None:
        self._invocations = invocations
        self._placements = placements
        self._credit = dict(placements.credit)
        self._kept = dict(placements.kept)
        self._answers: dict[int, Answer] = {}
        self._first_of: dict[tuple[str, str], int] = {}
        self.found: dict[int, UUID] = {}
        self.entries: list[Entry] = []
        self.readied: Counter[tuple[str, str]] = Counter()

    def firsts(self) -> list[Invocation]:
        """Return the invocations without those that repeat the key of another in the group."""
        for place, invocation in enumerate(self._invocations):
            self._first_of.setdefault((invocation.tenant, invocation.idempotency_key), place)
        return [self._invocations[place] for place in self._first_of.values()]

    def decide(self, firsts: Sequence[Invocation], facts: Facts, doors: Mapping[str, TenantDoor]) -> None:
        """Decide about each first invocation, in order of arrival."""
        taken_here: set[UUID] = set()
        self._credit = {session: n for session, n in self._credit.items() if session in facts.alive}
        self._kept = {session: n for session, n in self._kept.items() if session in facts.alive}
        for index, (place, invocation) in enumerate(zip(self._first_of.values(), firsts, strict=True)):
            known = facts.known.get(index)
            if known is not None:
                run_id, fingerprint = known
                if fingerprint == invocation.fingerprint:
                    self.found[place] = run_id
                else:
                    self._answers[place] = _reused(run_id)
            elif index in facts.taken or invocation.run_id in taken_here:
                self._answers[place] = Refused(
                    RunIdTaken("The run id belongs to another run.", facts={"run_id": str(invocation.run_id)})
                )
            else:
                if index in facts.held:
                    doors[invocation.tenant].door.hold(invocation.lane)
                taken_here.add(invocation.run_id)
                self._answers[place] = self._enter(
                    invocation, facts, facts.seqs[index], doors[invocation.tenant]
                )

    def _enter(self, invocation: Invocation, facts: Facts, seq: int, tenant: TenantDoor) -> Answer:
        if not tenant.pace.is_open:
            return _too_fast(tenant.pace)
        pool = pool_of(invocation.intent, invocation.agent_version)
        not_before = invocation.not_before
        delayed = not_before is not None and not_before > facts.now
        server = None
        may = tenant.door.may_lease(ordering_key=invocation.lane, delayed=delayed)
        credit = self._credit
        if may and not tenant.counts(invocation):
            server = None if pool in facts.busy else self._placements.idlest(pool, credit)
            if server is None and tenant.door.light:
                credit = self._kept
                server = self._placements.idlest(pool, credit)
        where = tenant.door.enter(ordering_key=invocation.lane, delayed=delayed, to_runner=server is not None)
        if where is Where.REFUSED:
            return Refused(
                QueueFull(
                    f"The tenant's queue is full: {tenant.door.room.max_queued} runs wait.",
                    retry_after=1.0,
                    quota="max_queued",
                )
            )
        tenant.pace.take()
        version = invocation.agent_version
        if server is not None:
            credit[server.session_id] -= 1
            version = server.agent_version
            pool = pool_of(invocation.intent, version)
        if where is Where.READY:
            self.readied[pool, invocation.tenant] += 1
        limits = invocation.limits.over(tenant.defaults)
        # The budget's time starts when the run may start: a delay asked for does not use it up.
        start = not_before if delayed and not_before is not None else facts.now
        deadline = start + timedelta(milliseconds=limits.deadline_ms)
        session = server.session_id if server else None
        self.entries.append(
            Entry(
                invocation=invocation,
                seq=seq,
                pool=pool,
                where=where,
                limits=limits,
                not_before=not_before if delayed else None,
                deadline=deadline,
                agent_version=version,
                runner_session=session,
            )
        )
        lease = lease_of(invocation, server, limits, facts.now) if server else None
        status = RunStatus.RUNNING if lease else RunStatus.QUEUED
        return Admitted(invocation.run_id, True, status, pool, seq, facts.now, deadline, limits, lease)

    def answer_found(self, rows: Mapping[UUID, Mapping[str, Any]]) -> None:
        """Answer those whose run an earlier call made."""
        for place, run_id in self.found.items():
            row = rows[run_id]
            self._answers[place] = Admitted(
                run_id,
                False,
                RunStatus(row["status"]),
                row["pool"],
                row["seq"],
                row["create_time"],
                row["deadline_time"],
                limits_of(row),
            )

    def answers(self) -> list[Answer]:
        """Return the answers in the order of the invocations; repeated keys get their first one's."""
        return [self._answer(place, invocation) for place, invocation in enumerate(self._invocations)]

    def _answer(self, place: int, invocation: Invocation) -> Answer:
        first = self._first_of[invocation.tenant, invocation.idempotency_key]
        answer = self._answers[first]
        if first == place or isinstance(answer, Refused):
            return answer
        if self._invocations[first].fingerprint != invocation.fingerprint:
            return _reused(answer.run_id)
        return replace(answer, created=False, lease=None)


def lease_of(invocation: Invocation, server: Server, limits: Limits, now: datetime) -> Leased:
    """Return the lease of a new run that was placed straight on a runner."""
    return Leased(
        run_id=invocation.run_id,
        session_id=server.session_id,
        epoch=1,
        attempt=1,
        max_attempts=invocation.max_attempts,
        tenant=invocation.tenant,
        intent=invocation.intent,
        envelope=invocation.envelope,
        limits=limits,
        create_time=now,
        lease_time=now,
        remaining_s=limits.deadline_ms / 1000,
        last_commit=0,
        last_sequence=1,
        usage=NOTHING_SPENT,
        cancel_requested=False,
        shape=invocation.shape,
    )


def _too_fast(pace: Pace) -> Refused:
    return Refused(
        RateLimited(
            f"The tenant starts runs faster than its rate: {pace.rate:g} a second.",
            retry_after=pace.refuse(),
            quota="rate",
        )
    )


def _reused(run_id: UUID) -> Refused:
    return Refused(
        IdempotencyKeyReused("The idempotency key stands for another request.", facts={"run_id": str(run_id)})
    )
