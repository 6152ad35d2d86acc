"""Whatever people, runners and clocks do, in any order: the ledger agrees with a queue in plain Python.

After each step the ledger's rows are held against each other (counters, lanes, leases, transcripts) and
against the model: invariants 1 (a key never makes two runs), 8 (caps hold) and 9 (runs of a key or a session
never overlap and start in order of admission; a session is what its runs left there, one after the other). A
signal waits from its acknowledgement until it is consumed or its run ends.
"""

import asyncio
import uuid
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from holdfast.embedded import EmbeddedPostgres
from holdfast.kit.db import Database
from holdfast.kit.errors import (
    Fenced,
    IdempotencyKeyReused,
    InvalidField,
    QueueFull,
    RunEnded,
    RunNotRetryable,
    SessionInUse,
    SessionNotFound,
    SignalIdReused,
)
from holdfast.ledger import cancel, due, history, retry, session, session_state, sweep
from holdfast.ledger.admission import admit
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Requeue, SessionWrite, Stored
from holdfast.ledger.commit_value import Refused as CommitRefused
from holdfast.ledger.domain.attempt import after_failed_attempt, after_hand_back
from holdfast.ledger.domain.lane import lane_of, session_of
from holdfast.ledger.domain.status import ENDED, RETRYABLE, RunStatus
from holdfast.ledger.mailbox import signal
from holdfast.ledger.tenant import change
from holdfast.ledger.values import Admitted, Failure, Leased, LeaseRef, Limits, Refused
from tests.support.ledger import Runner, contradictions, execute, fetch, finish, give_up, invocation, opened
from tests.support.model import Model, ModelRun
from tests.support.state_machine import drive

T = TypeVar("T")
TENANTS = ("acme", "umbrella")
ANY = st.integers(0, 1_000_000)
BACKGROUND = Limits(deadline_ms=7_200_000, max_steps=77)
_TABLES = """TRUNCATE tenant, tenant_pool, run, run_state, run_outcome, idempotency, ready, lane, blocked,
             runner_session, lease, timer, checkpoint, transcript, session, handoff, mailbox, throttled,
             throttled_user"""


class LedgerMachine(RuleBasedStateMachine):
    """Drives the verbs of one ledger; `loop` and `db` are set by the test."""

    loop: asyncio.Runner
    db: Database

    def do(self, verb: Coroutine[Any, Any, T]) -> T:
        """Run a verb to its end."""
        return self.loop.run(verb)

    @initialize(cap=st.integers(1, 3), depth=st.integers(2, 8), of_users=st.sampled_from([None, 1, 2]))
    def begin(self, cap: int, depth: int, of_users: int | None) -> None:
        """Empty the ledger; the first tenant is narrow."""
        self.model = Model(caps={"acme": cap, "umbrella": 1000}, depths={"acme": depth, "umbrella": 1000})
        self.runners: list[Runner] = []
        self.leased: dict[uuid.UUID, Leased] = {}
        self.do(execute(self.db, _TABLES))
        for tenant in TENANTS:
            self.do(
                execute(
                    self.db,
                    "INSERT INTO tenant (tenant, max_in_flight, max_queued) VALUES ($1, $2, $3)",
                    tenant,
                    self.model.caps[tenant],
                    self.model.depths[tenant],
                )
            )
        self.cap_users("umbrella", of_users)
        self.open_runner()

    @rule()
    def open_runner(self) -> None:
        """Let another runner come."""
        if len(self.runners) < 3:
            self.runners.append(self.do(opened(self.db)))

    @rule(
        tenant=st.sampled_from(TENANTS),
        ordering_key=st.sampled_from(["", "", "k", "l"]),
        session_id=st.sampled_from(["", "k", "m"]),
        may_hand_off=st.booleans(),
        user=st.sampled_from(["", "ann", "ann", "bob"]),
        priority=st.sampled_from([0, 0, 9]),
        pinned=st.booleans(),
        delayed=st.sampled_from([False, False, True]),
        max_attempts=st.integers(1, 2),
        count=st.integers(1, 3),
        slots=st.integers(0, 2),
        which=ANY,
    )
    def admit(  # noqa: PLR0917 - drawn by name
        self,
        tenant: str,
        ordering_key: str,
        session_id: str,
        may_hand_off: bool,  # noqa: FBT001 - drawn
        user: str,
        priority: int,
        pinned: bool,  # noqa: FBT001 - drawn
        delayed: bool,  # noqa: FBT001 - drawn
        max_attempts: int,
        count: int,
        slots: int,
        which: int,
    ) -> None:
        """Admit a group, with a runner that may take some at once."""
        group = [
            invocation(
                tenant=tenant,
                user=user,
                ordering_key=ordering_key,
                session_id="" if ordering_key else session_id,
                priority=priority,
                agent_version="1" if pinned else "",
                not_before=datetime.now(UTC) + timedelta(hours=1) if delayed else None,
                max_attempts=max_attempts,
                handoff=BACKGROUND if may_hand_off else None,
            )
            for _ in range(count)
        ]
        runner = self.runners[which % len(self.runners)] if self.runners else None
        answers = self.do(admit(self.db, group, runner.idle(slots) if runner and slots else None))
        for one, answer in zip(group, answers, strict=True):
            if isinstance(answer, Refused):
                assert isinstance(answer.fault, QueueFull)
                assert self.model.queue_full(tenant)
                continue
            assert answer.created
            others_wait = any(
                self.model.takeable(r.tenant, {r.pool}) > 0
                for r in self.model.ready({"count@1" if pinned else "count"})
            )
            run = ModelRun(
                one.run_id, tenant, one.idempotency_key, one.lane, -priority, answer.seq,
                "count@1" if pinned else "count", max_attempts, delayed, may_hand_off=may_hand_off,
                user=user,
            )  # fmt: skip
            full = self.model.queue_full(tenant)
            self.model.add(run)
            if answer.lease is None:
                assert not full
                continue
            assert runner is not None
            assert not others_wait or len(group) > 1  # within a group the earlier ones came first
            self.model.lease(run, runner.session_id, answer.pool)
            self.leased[run.run_id] = answer.lease

    @precondition(lambda self: self.model.runs)
    @rule(which=ANY, same=st.booleans())
    def admit_again(self, which: int, same: bool) -> None:  # noqa: FBT001 - drawn
        """Send a key again: it finds its run, or is refused if it means another."""
        run = self.pick(list(self.model.runs.values()), which)
        again = invocation(
            tenant=run.tenant, idempotency_key=run.key, fingerprint=b"same" if same else b"other"
        )
        (answer,) = self.do(admit(self.db, [again]))
        if same:
            assert isinstance(answer, Admitted)
            assert (answer.run_id, answer.created, answer.status) == (run.run_id, False, run.status)
        else:
            assert isinstance(answer, Refused)
            assert isinstance(answer.fault, IdempotencyKeyReused)

    @precondition(lambda self: self.runners)
    @rule(which=ANY, slots=st.integers(1, 4))
    def claim(self, which: int, slots: int) -> None:
        """Let a runner take runs: as many as may be taken, the first of each tenant first."""
        runner = self.pick(self.runners, which)
        pools = {"count", "count@1"}
        takeable = sum(self.model.takeable(tenant, pools) for tenant in TENANTS)
        leased = self.do(runner.take(slots))
        assert len(leased) == min(slots, takeable)
        taken = [self.model.runs[one.run_id] for one in leased]
        ahead = [
            r
            for run in taken
            for r in self.model.ready(pools)
            if (r.tenant, r.pool) == (run.tenant, run.pool) and r.place < run.place and r not in taken
        ]
        for one, run in zip(leased, taken, strict=True):
            self.model.lease(run, runner.session_id, "count@1")
            assert (one.epoch, one.attempt) == (run.epoch, run.attempt)
            self.leased[run.run_id] = one
        assert all(self.model.user_room(r.tenant, r.user) == 0 for r in ahead), "only their users hold them"

    @rule(tenant=st.sampled_from(TENANTS), cap=st.sampled_from([None, 1, 1, 2]))
    def cap_users(self, tenant: str, cap: int | None) -> None:
        """Change what each user of a tenant may have in flight."""
        self.do(change(self.db, tenant, {"user_cap": cap}))
        self.model.user_caps.pop(tenant, None)
        if cap is not None:
            self.model.user_caps[tenant] = cap

    @precondition(lambda self: self.leased)
    @rule(which=ANY, status=st.sampled_from([RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.PARTIAL]))
    def finish(self, which: int, status: RunStatus) -> None:
        """Let a runner end a run; only the holder of the lease can."""
        lease = self.pick(list(self.leased.values()), which)
        run = self.model.runs[lease.run_id]
        holds = run.status is RunStatus.RUNNING and run.epoch == lease.epoch
        left = self.left(lease, run, holds=holds) if status is not RunStatus.FAILED else None
        result = self.do(finish(self.db, lease, status, left))
        if holds:
            assert isinstance(result, Stored)
            if left is not None:
                self.model.save(run, left.state, status)
            self.model.end(run, status)
        else:
            assert isinstance(result, CommitRefused)
        del self.leased[lease.run_id]

    def left(self, lease: Leased, run: ModelRun, *, holds: bool) -> SessionWrite | None:
        """Return what a run leaves in its session; a zombie leaves what must never be seen."""
        if not session_of(run.ordering_key):
            return None
        if not holds:
            return SessionWrite(b'"of a zombie"', self.model.found(run)[1])
        found = self.do(history.beginning(self.db, lease.run_id, lease.epoch)).session
        assert found is not None
        assert (found.state, found.version) == self.model.found(run)
        return SessionWrite(f'"{lease.run_id}, {lease.epoch}"'.encode(), found.version)

    @precondition(lambda self: self.leased)
    @rule(which=ANY, first=st.booleans())
    def hand_off(self, which: int, first: bool) -> None:  # noqa: FBT001 - drawn
        """Let a runner move its run to the background: once, if it may, and only the holder of the lease."""
        lease = self.pick(list(self.leased.values()), which)
        run = self.model.runs[lease.run_id]
        holds = run.status is RunStatus.RUNNING and run.epoch == lease.epoch
        number = lease.last_commit + 1
        item = CommitItem(run.run_id, lease.epoch, number, handoff=True)
        (result,) = self.do(commit_group(self.db, [item]))
        if not (holds and run.may_hand_off):
            assert isinstance(result, CommitRefused)
            assert isinstance(result.fault, InvalidField if holds else Fenced)
            return
        assert isinstance(result, Stored)
        run.may_hand_off, run.handed_off = False, True
        self.leased[run.run_id] = replace(lease, last_commit=number)
        if first:
            assert isinstance(self.do(commit_group(self.db, [item]))[0], Stored)  # told again, done once

    @rule(tenant=st.sampled_from(TENANTS), session_id=st.sampled_from(["k", "m"]))
    def forget(self, tenant: str, session_id: str) -> None:
        """Forget a session, unless a run of it has not ended."""
        lane = (tenant, lane_of("", session_id))
        try:
            self.do(session_state.forget(self.db, tenant, session_id))
        except SessionInUse:
            assert lane in self.model.lanes
        except SessionNotFound:
            assert lane not in self.model.lanes
            assert lane not in self.model.sessions
        else:
            assert lane not in self.model.lanes
            del self.model.sessions[lane]

    @precondition(lambda self: self.model.runs)
    @rule(
        which=ANY,
        signal_id=st.sampled_from(["a", "b", "c", "d"]),
        payload=st.sampled_from([b"1", b"1", b"2"]),
    )
    def signal(self, which: int, signal_id: str, payload: bytes) -> None:
        """Send a run a signal, or send one again."""
        run = self.pick(list(self.model.runs.values()), which)
        known = signal_id in run.known_signals
        sending = signal(self.db, run.tenant, run.run_id, key="input", payload=payload, signal_id=signal_id)
        try:
            told = self.do(sending)
        except RunEnded:
            assert run.status in ENDED
        except SignalIdReused:
            assert known
        else:
            assert run.status not in ENDED
            assert told.repeated is known
            if not known:
                run.mail.append(signal_id)
                run.known_signals.add(signal_id)

    @precondition(lambda self: self.leased)
    @rule(which=ANY, first=st.integers(0, 1), count=st.integers(1, 2))
    def consume(self, which: int, first: int, count: int) -> None:
        """Let whoever has, or had, a run consume signals that wait for it, or do not."""
        lease = self.pick(list(self.leased.values()), which)
        run = self.model.runs[lease.run_id]
        ids = (run.mail or ["never"])[first : first + count] or ["never"]
        item = CommitItem(lease.run_id, lease.epoch, lease.last_commit + 1, consumed=ids)
        (answer,) = self.do(commit_group(self.db, [item]))
        mine = run.status is RunStatus.RUNNING and run.epoch == lease.epoch
        if not mine or "never" in ids:
            assert isinstance(answer, CommitRefused)
            return
        assert isinstance(answer, Stored)
        self.leased[run.run_id] = replace(lease, last_commit=lease.last_commit + 1)
        run.mail = [each for each in run.mail if each not in ids]

    @precondition(lambda self: self.held())
    @rule(which=ANY, delay=st.sampled_from([0.0, 3600.0]))
    def fail_attempt(self, which: int, delay: float) -> None:
        """Let an attempt fail."""
        run = self.pick(self.held(), which)
        self.do(give_up(self.db, self.leased.pop(run.run_id), Requeue(Failure("BROKEN"), delay=delay)))
        after = after_failed_attempt(run.attempt, run.max_attempts, cancel_requested=run.cancel_requested)
        if after.status is RunStatus.QUEUED:
            self.model.requeue(run, delayed=delay > 0)
        else:
            self.model.end(run, after.status)

    @precondition(lambda self: self.held())
    @rule(which=ANY)
    def hand_back(self, which: int) -> None:
        """Let a runner drain."""
        run = self.pick(self.held(), which)
        assert run.session is not None
        moved = self.do(session.hand_back(self.db, run.session, [LeaseRef(run.run_id, run.epoch)]))
        assert moved.count == 1
        after = after_hand_back(run.attempt, cancel_requested=run.cancel_requested)
        self.settle(run, after.status, after.attempt)

    @precondition(lambda self: self.runners)
    @rule(which=ANY)
    def lose_runner(self, which: int) -> None:
        """Let a runner fall silent and its leases be swept. What it held stays known, as to a zombie."""
        runner = self.runners.pop(which % len(self.runners))
        self.do(runner.expire())
        self.do(sweep.sweep(self.db))
        for run in self.model.runs.values():
            if run.status is RunStatus.RUNNING and run.session == runner.session_id:
                after = after_failed_attempt(
                    run.attempt, run.max_attempts, cancel_requested=run.cancel_requested
                )
                self.settle(run, after.status, after.attempt, forget=False)

    @precondition(lambda self: self.model.runs)
    @rule(which=ANY)
    def cancel(self, which: int) -> None:
        """Ask a run to stop."""
        run = self.pick(list(self.model.runs.values()), which)
        cancelled = self.do(cancel.cancel(self.db, run.tenant, run.run_id, "enough"))
        if run.status is RunStatus.RUNNING:
            run.cancel_requested = True
            assert cancelled.holder is not None
            assert cancelled.holder.epoch == run.epoch
        elif run.status is RunStatus.QUEUED:
            self.settle(run, RunStatus.CANCELLED, run.attempt)
        assert cancelled.status is run.status

    @precondition(lambda self: any(r.status in ENDED for r in self.model.runs.values()))
    @rule(which=ANY)
    def retry(self, which: int) -> None:
        """Start an ended run again."""
        run = self.pick([r for r in self.model.runs.values() if r.status in ENDED], which)
        try:
            self.do(retry.retry(self.db, run.tenant, run.run_id))
        except RunNotRetryable:
            assert run.status not in RETRYABLE
        except QueueFull:
            assert self.model.queue_full(run.tenant)
        else:
            assert run.status in RETRYABLE
            assert not self.model.queue_full(run.tenant)
            self.model.retry(run)

    @precondition(lambda self: any(r.delayed for r in self.model.runs.values()))
    @rule(which=ANY)
    def delay_passes(self, which: int) -> None:
        """Let a delay be over."""
        run = self.pick([r for r in self.model.runs.values() if r.delayed], which)
        past = "UPDATE timer SET due_time = now() - interval '1 s' WHERE run_id = $1 AND kind = 2"
        self.do(execute(self.db, past, run.run_id))
        self.do(due.fire(self.db))
        run.delayed = False

    @precondition(lambda self: any(r.status not in ENDED for r in self.model.runs.values()))
    @rule(which=ANY, grace_is_over=st.booleans())
    def deadline_passes(self, which: int, grace_is_over: bool) -> None:  # noqa: FBT001 - drawn
        """Let a run's time be over."""
        run = self.pick([r for r in self.model.runs.values() if r.status not in ENDED], which)
        self.do(
            execute(
                self.db,
                "UPDATE run_state SET deadline_time = now() - make_interval(secs => $2) WHERE run_id = $1",
                run.run_id,
                3.0 if grace_is_over else 0.5,
            )
        )
        past = "UPDATE timer SET due_time = now() - interval '1 ms' WHERE run_id = $1 AND kind = 1"
        self.do(execute(self.db, past, run.run_id))
        self.do(due.fire(self.db))
        if run.status is RunStatus.QUEUED or grace_is_over:
            self.settle(run, RunStatus.PARTIAL, run.attempt, forget=False)

    @invariant()
    def the_rows_agree_with_each_other(self) -> None:
        """Hold the ledger against itself."""
        if hasattr(self, "model"):
            assert self.do(contradictions(self.db)) == []

    @invariant()
    def the_ledger_agrees_with_the_model(self) -> None:
        """Hold the ledger against the model."""
        if not hasattr(self, "model"):
            return
        rows = self.do(fetch(self.db, "SELECT run_id, status, attempt, epoch, pool FROM run_state"))
        assert {(r["run_id"], r["status"], r["attempt"], r["epoch"], r["pool"]) for r in rows} == {
            (r.run_id, r.status, r.attempt, r.epoch, r.pool) for r in self.model.runs.values()
        }
        away = "SELECT run_id FROM run_state WHERE handed_off AND max_steps = $1 AND deadline_ms = $2"
        moved = self.do(fetch(self.db, away, BACKGROUND.max_steps, BACKGROUND.deadline_ms))
        assert {r["run_id"] for r in moved} == {r.run_id for r in self.model.runs.values() if r.handed_off}
        waiting = "SELECT run_id, rank, seq, pool FROM {}"
        ready = [
            row for table in ("ready", "throttled") for row in self.do(fetch(self.db, waiting.format(table)))
        ]
        assert {(r["run_id"], r["rank"], r["seq"], r["pool"]) for r in ready} == {
            (r.run_id, r.rank, r.seq, r.pool) for r in self.model.ready()
        }
        lanes = self.do(fetch(self.db, "SELECT tenant, ordering_key, holder FROM lane"))
        assert {(r["tenant"], r["ordering_key"]): r["holder"] for r in lanes} == self.model.lanes
        sessions = self.do(fetch(self.db, "SELECT tenant, session_id, state, version, run_id FROM session"))
        assert {
            (r["tenant"], lane_of("", r["session_id"])): (r["state"], r["version"], r["run_id"])
            for r in sessions
        } == {lane: (s.state, s.version, s.run_id) for lane, s in self.model.sessions.items()}

    @invariant()
    def what_waits_is_what_was_sent_and_not_received(self) -> None:
        """Hold the mailboxes against the model."""
        if not hasattr(self, "model"):
            return
        query = "SELECT run_id, signal_id FROM mailbox WHERE NOT consumed ORDER BY run_id, sequence"
        waiting: dict[uuid.UUID, list[str]] = {}
        for row in self.do(fetch(self.db, query)):
            waiting.setdefault(row["run_id"], []).append(row["signal_id"])
        assert waiting == {run.run_id: run.mail for run in self.model.runs.values() if run.mail}

    @invariant()
    def runs_of_a_key_never_overlap(self) -> None:
        """Ask the ledger alone."""
        overlapping = """SELECT tenant, ordering_key FROM run_state WHERE status = 2 AND ordering_key <> ''
                         GROUP BY tenant, ordering_key HAVING count(*) > 1"""
        assert self.do(fetch(self.db, overlapping)) == []

    def teardown(self) -> None:
        """Whatever happened before, all that waits for a runner is claimed in the end."""
        if not hasattr(self, "model"):
            return
        self.open_runner()
        while self.model.ready():
            for run in self.held():
                lease = self.leased.pop(run.run_id)
                assert isinstance(self.do(finish(self.db, lease)), Stored)
                self.model.end(run, RunStatus.SUCCEEDED)
            zombies = [run for run in self.model.runs.values() if run.status is RunStatus.RUNNING]
            assert not zombies, "each lease was known"
            before = len(self.model.ready())
            self.claim(0, 50)
            assert before == 0 or self.held(), "nobody is left behind"

    def held(self) -> list[ModelRun]:
        """Return runs whose lease we know and which is theirs still."""
        return [
            self.model.runs[i]
            for i, lease in self.leased.items()
            if self.model.runs[i].status is RunStatus.RUNNING and self.model.runs[i].epoch == lease.epoch
        ]

    def settle(self, run: ModelRun, status: RunStatus, attempt: int, *, forget: bool = True) -> None:
        """Move a run whose lease is over."""
        if forget:
            self.leased.pop(run.run_id, None)
        run.epoch += 1  # a move of the platform
        if status is RunStatus.QUEUED:
            self.model.requeue(run, attempt=attempt)
        else:
            self.model.end(run, status)

    @staticmethod
    def pick(things: list[T], which: int) -> T:
        """Choose one, the same each time the example is run."""
        return things[which % len(things)]


@pytest.mark.timeout(300)
def test_the_ledger_agrees_with_a_queue_in_plain_python(migrated_postgres: EmbeddedPostgres) -> None:
    drive(LedgerMachine, migrated_postgres, examples=25, steps=40)
