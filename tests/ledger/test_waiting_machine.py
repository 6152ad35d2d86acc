"""Whatever waits, is held, undone, signalled, due or lost, in any order: nothing is forgotten, nothing twice.

After each step the rows are held against each other and against what must hold of a run that waits: it has
something that wakes it (6), what it waits for is not there already, one that a person holds is taken by
nobody, one that calls for it has its steps undone before it ends, once (7). In the end everybody is let go,
and every run comes to an end (11).
"""

import asyncio
import uuid
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import pytest
from hypothesis import Phase
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
from holdfast.kit.errors import ApprovalDecided, Fenced, RunEnded
from holdfast.ledger import (
    approval_fire,
    cancel,
    due,
    due_wake,
    orphan,
    pause,
    retry,
    session,
    sweep,
)
from holdfast.ledger.approval_change import key_of
from holdfast.ledger.approval_request import Request, request
from holdfast.ledger.approval_vote import decide
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Compensate, Move, Park, Record, Requeue, Stored, Undo
from holdfast.ledger.domain.approval import Person, Policy, Quorum, Verdict
from holdfast.ledger.domain.status import ENDED, RETRYABLE, RunStatus
from holdfast.ledger.domain.undo import UndoOn
from holdfast.ledger.mailbox import signal
from holdfast.ledger.values import Failure, Leased, LeaseRef, Outcome
from tests.support.ledger import Runner, admitted, contradictions, execute, fetch, invocation, opened
from tests.support.state_machine import drive

T = TypeVar("T")
TENANTS = ("acme", "umbrella")
KEYS = ("input", "answer")
ANY = st.integers(0, 1_000_000)
CAUSE = Failure("E", "e")
WRITERS = (Quorum(1, ("group:writers",)),)
FINAL_ROUNDS = 60
_EMPTY = """TRUNCATE tenant, tenant_pool, run, run_state, run_outcome, idempotency, ready, lane, blocked,
            runner_session, lease, timer, checkpoint, transcript, mailbox, approval, approval_audit,
            handoff, throttled, throttled_user"""
_OLDEST = "SELECT signal_id FROM mailbox WHERE run_id = $1 AND NOT consumed ORDER BY sequence LIMIT 1"
_LATE = """UPDATE approval SET create_time = create_time - interval '2 h', next_time = now() - interval '1 h',
                               deadline_time = now() - interval '1 h' WHERE approval_id = $1 AND status = 1"""
_OVER = "UPDATE run_state SET deadline_time = now() - interval '9 s' WHERE run_id = $1 AND status < 5"

# Each query names runs of which something does not hold that must.
BROKEN = {
    "a parked run has nothing that wakes it": """
        SELECT run_id FROM run_state s WHERE status = 3 AND (
            NOT EXISTS (SELECT FROM timer t WHERE t.run_id = s.run_id AND t.kind = 1)
            OR (coalesce(cardinality(park_keys), 0) = 0
                AND NOT EXISTS (SELECT FROM timer t WHERE t.run_id = s.run_id AND t.kind = 3)))""",
    "a parked run waits for what is there": """
        SELECT s.run_id FROM run_state s JOIN mailbox m ON m.run_id = s.run_id AND NOT m.consumed
        WHERE s.status = 3 AND m.key = ANY(s.park_keys)""",
    "a run that does not rest has the timer of a rest": """
        SELECT s.run_id FROM run_state s JOIN timer t ON t.run_id = s.run_id AND t.kind = 3
        WHERE s.status <> 3""",
    "a held run stands among the ready, or is due": """
        SELECT s.run_id FROM run_state s WHERE s.paused IS NOT NULL AND s.status = 1 AND (
            EXISTS (SELECT FROM ready r WHERE r.run_id = s.run_id)
            OR NOT EXISTS (SELECT FROM timer t
                           WHERE t.run_id = s.run_id AND t.kind = 2 AND t.due_time = 'infinity'))""",
    "a run that nobody holds waits for ever": """
        SELECT s.run_id FROM run_state s JOIN timer t ON t.run_id = s.run_id AND t.due_time = 'infinity'
        WHERE s.paused IS NULL""",
    "a run is executed otherwise than its phase says": """
        SELECT run_id FROM run_state
        WHERE (status = 2 AND undoing IS NOT NULL) OR (status IN (4, 9) AND undoing IS NULL)""",
    "a run ended that had called for undoing": """
        SELECT run_id FROM run_state WHERE undoing IS NULL AND (
            (status = 8 AND undo_on & 2 > 0) OR (status = 6 AND undo_on & 4 > 0)
            OR (status = 10 AND undo_on & 1 > 0))""",
    "a run is asked to stop that is on its way out": """
        SELECT run_id FROM run_state WHERE undoing IS NOT NULL AND cancel_requested AND status < 5""",
    "an ended or undone run has a gate that is open": """
        SELECT a.run_id FROM approval a JOIN run_state s ON s.run_id = a.run_id
        WHERE a.status = 1 AND (s.status >= 5 OR s.undoing IS NOT NULL)""",
    "a run waits at a gate that nobody decides any more": """
        SELECT s.run_id FROM run_state s JOIN approval a ON 'approval:' || a.approval_id = ANY(s.park_keys)
        WHERE s.status = 3 AND a.status <> 1""",
    "a step has two gates that are open, or were decided": """
        SELECT run_id FROM approval WHERE status <> 5 GROUP BY run_id, step HAVING count(*) > 1""",
    "a gate has an end without a decision, or the other way round": """
        SELECT run_id FROM approval WHERE (status <> 1) <> (decision IS NOT NULL)""",
    "undoing began otherwise than once": """
        SELECT s.run_id FROM run_state s WHERE (s.undoing IS NOT NULL)::int <> (
            SELECT count(*) FROM transcript t
            WHERE t.run_id = s.run_id AND t.note->>'kind' = 'compensating')""",
}


class WaitingMachine(RuleBasedStateMachine):
    """Drives the verbs of one ledger; `loop` and `db` are set by the test."""

    loop: asyncio.Runner
    db: Database

    def do(self, verb: Coroutine[Any, Any, T]) -> T:
        """Run a verb to its end."""
        return self.loop.run(verb)

    @initialize()
    def begin(self) -> None:
        """Empty the ledger."""
        self.do(execute(self.db, _EMPTY))
        self.runs: dict[uuid.UUID, str] = {}
        self.gates: dict[uuid.UUID, str] = {}
        self.leased: dict[uuid.UUID, tuple[Leased, int]] = {}
        """The last lease known of each run, current or not, and the number of its next commit."""
        self.runner: Runner = self.do(opened(self.db))

    @rule(
        tenant=st.sampled_from(TENANTS),
        key=st.sampled_from(["", "", "k"]),
        on=st.sampled_from([UndoOn.NONE, UndoOn.FAILURE, UndoOn.CANCEL | UndoOn.EXHAUSTED, UndoOn(7)]),
    )
    def start(self, tenant: str, key: str, on: UndoOn) -> None:
        """Admit a run; where it is taken at once, let it begin a step with an undo."""
        if len(self.runs) >= 6:
            return
        (run,) = self.do(admitted(self.db, invocation(tenant=tenant, ordering_key=key, max_attempts=2)))
        self.runs[run.run_id] = tenant
        self.claim(4)
        lease, number = self.leased.get(run.run_id, (None, 0))
        if lease is not None and on:
            self.commit(run.run_id, None, records=[Record("hold", b"intent")], undo=Undo(on, 3_600_000))
            assert self.leased[run.run_id][1] == number + 1

    @rule(slots=st.integers(1, 4))
    def claim(self, slots: int) -> None:
        """Let the runner take runs: none that is held."""
        held = {row["run_id"] for row in self.rows("SELECT run_id FROM run_state WHERE paused IS NOT NULL")}
        for lease in self.do(self.runner.take(slots)):
            assert lease.run_id not in held
            assert (lease.undoing is not None) == (self.status(lease.run_id) is RunStatus.COMPENSATING)
            self.leased[lease.run_id] = (lease, lease.last_commit + 1)

    @precondition(lambda self: self.leased)
    @rule(
        which=ANY,
        move=st.one_of(
            st.sets(st.sampled_from(KEYS)).flatmap(
                lambda keys: st.sampled_from([0.0, 3600.0, *([None] if keys else [])]).map(
                    lambda seconds: Park(tuple(sorted(keys)), seconds)
                )
            ),
            st.sampled_from([0.0, 3600.0]).map(lambda delay: Requeue(CAUSE, delay)),
            st.just(Requeue(blameless=True)),
            st.just(Compensate(CAUSE)),
            st.sampled_from([RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.COMPENSATED]).map(
                lambda status: Outcome(status, failure=CAUSE)
            ),
        ),
    )
    def move(self, which: int, move: Move) -> None:
        """Let whoever has, or had, a run take it somewhere."""
        self.commit(list(self.leased)[which % len(self.leased)], move)

    @precondition(lambda self: self.runs)
    @rule(which=ANY, key=st.sampled_from(KEYS))
    def signal(self, which: int, key: str) -> None:
        """Send a run a signal."""
        run_id = self.pick(which)
        try:
            self.do(signal(self.db, self.runs[run_id], run_id, key=key, payload=b"1"))
        except RunEnded:
            assert self.status(run_id) in ENDED

    @precondition(lambda self: self.leased)
    @rule(which=ANY)
    def receive(self, which: int) -> None:
        """Let whoever has, or had, a run receive what came first."""
        run_id = list(self.leased)[which % len(self.leased)]
        waiting = self.rows(_OLDEST, run_id)
        if waiting:
            self.commit(run_id, None, consumed=[waiting[0]["signal_id"]])

    @precondition(lambda self: self.leased)
    @rule(which=ANY, step=st.sampled_from(["review", "again"]))
    def ask(self, which: int, step: str) -> None:
        """Let whoever has, or had, a run open a gate and rest there."""
        run_id = list(self.leased)[which % len(self.leased)]
        lease, _ = self.leased[run_id]
        if lease.undoing is not None:
            return  # no agent goes on then
        asked = Request(run_id, lease.epoch, step, step, b"{}", Policy(WRITERS, timeout=3600.0))
        try:
            opened = self.do(request(self.db, asked))
        except Fenced:
            return
        self.gates[opened.approval_id] = self.runs[run_id]
        self.commit(run_id, Park((key_of(opened.approval_id),)))

    @precondition(lambda self: self.gates)
    @rule(which=ANY, verdict=st.sampled_from([Verdict.APPROVE, Verdict.DENY]), late=st.booleans())
    def decide(self, which: int, verdict: Verdict, late: bool) -> None:  # noqa: FBT001 - drawn
        """Let a person decide, and a gate's time be over at the same moment."""
        gate = list(self.gates)[which % len(self.gates)]

        async def voted() -> None:
            with suppress(ApprovalDecided):
                await decide(self.db, self.gates[gate], gate, Person("ann", frozenset({"writers"})), verdict)

        async def both() -> None:
            await asyncio.gather(voted(), approval_fire.fire(self.db))

        if late:
            self.do(execute(self.db, _LATE, gate))
        self.do(both())

    @precondition(lambda self: any(self.status(run_id) in RETRYABLE for run_id in self.runs))
    @rule(which=ANY)
    def retry(self, which: int) -> None:
        """Start an ended run again."""
        ended = [run_id for run_id in self.runs if self.status(run_id) in RETRYABLE]
        run_id = ended[which % len(ended)]
        self.do(retry.retry(self.db, self.runs[run_id], run_id))

    @precondition(lambda self: self.runs)
    @rule(which=ANY, hold=st.booleans())
    def pause(self, which: int, hold: bool) -> None:  # noqa: FBT001 - drawn
        """Hold a run, or let it go."""
        run_id = self.pick(which)
        verb = pause.pause if hold else pause.resume
        try:
            self.do(verb(self.db, self.runs[run_id], run_id))
        except RunEnded:
            assert self.status(run_id) in ENDED

    @precondition(lambda self: self.runs)
    @rule(which=ANY)
    def cancel(self, which: int) -> None:
        """Ask a run to stop."""
        run_id = self.pick(which)
        cancelled = self.do(cancel.cancel(self.db, self.runs[run_id], run_id, "enough"))
        assert cancelled.status is self.status(run_id)

    @precondition(lambda self: self.runs)
    @rule(which=ANY, kind=st.integers(1, 3))
    def time_passes(self, which: int, kind: int) -> None:
        """Let a run's deadline, its delay or its rest be over, and everybody look at once."""
        run_id = self.pick(which)
        self.let_fall_due(run_id, kind)

        async def looked() -> None:
            await asyncio.gather(due.fire(self.db), due_wake.wake_due(self.db))
            await orphan.cancel_orphans(self.db)
            await asyncio.gather(due.fire(self.db), due_wake.wake_due(self.db))

        self.do(looked())

    @rule(silent=st.booleans())
    def lose_leases(self, silent: bool) -> None:  # noqa: FBT001 - drawn
        """Let the runner hand everything back, or fall silent and another come."""
        if silent:
            self.do(self.runner.expire())
            self.do(sweep.sweep(self.db))
            self.runner = self.do(opened(self.db))
        else:
            refs = [LeaseRef(lease.run_id, lease.epoch) for lease, _ in self.leased.values()]
            self.do(session.hand_back(self.db, self.runner.session_id, refs))

    @invariant()
    def all_that_must_hold_holds(self) -> None:
        """Hold the rows against each other, and against what waiting promises."""
        if not hasattr(self, "runs"):
            return
        assert self.do(contradictions(self.db)) == []
        for what, query in BROKEN.items():
            assert self.rows(query) == [], what

    def teardown(self) -> None:
        """Let everybody go: every run comes to an end."""
        if not hasattr(self, "runs"):
            return
        living: list[uuid.UUID] = []
        for _ in range(FINAL_ROUNDS):
            living = [run_id for run_id in self.runs if self.status(run_id) not in ENDED]
            if not living:
                return
            for run_id in living:
                self.let_go(run_id)
            for gate in self.gates:
                self.do(execute(self.db, _LATE, gate))
            self.do(approval_fire.fire(self.db))
            for _ in range(2):
                self.do(due.fire(self.db))
                self.do(due_wake.wake_due(self.db))
            self.do(orphan.cancel_orphans(self.db))
            self.do(self.runner.expire())
            self.do(sweep.sweep(self.db))
            self.runner = self.do(opened(self.db))
            self.claim(10)
            for run_id in living:
                undone = self.status(run_id) is RunStatus.COMPENSATING
                end = RunStatus.COMPENSATED if undone else RunStatus.SUCCEEDED
                if run_id in self.leased:
                    self.commit(run_id, Outcome(end, failure=CAUSE))
        raise AssertionError(f"{living} come to no end")

    def commit(self, run_id: uuid.UUID, move: Move | None, **more: Any) -> None:
        """Commit as the last runner known of a run would; it may have lost it."""
        lease, number = self.leased[run_id]
        item = CommitItem(run_id, lease.epoch, number, move=move, **more)
        (answer,) = self.do(commit_group(self.db, [item]))
        if isinstance(answer, Stored):
            self.leased[run_id] = (lease, number + 1)

    def let_go(self, run_id: uuid.UUID) -> None:
        """Let nothing keep a run waiting."""
        self.do(pause.resume(self.db, self.runs[run_id], run_id))
        for kind in (2, 3):
            self.let_fall_due(run_id, kind)
        if self.status(run_id) is RunStatus.PARKED:  # it may wait for a signal, and for no time
            for key in KEYS:
                self.do(signal(self.db, self.runs[run_id], run_id, key=key, payload=b"1"))

    def let_fall_due(self, run_id: uuid.UUID, kind: int) -> None:
        """Put a timer of a run into the past, but for one that never falls due."""
        if kind == 1:
            past = (
                "UPDATE run_state SET deadline_time = now() - interval '9 s' WHERE run_id = $1 AND status < 5"
            )
            self.do(execute(self.db, past, run_id))
        query = """UPDATE timer SET due_time = now() - interval '1 ms'
                   WHERE run_id = $1 AND kind = $2 AND due_time < 'infinity'"""
        self.do(execute(self.db, query, run_id, kind))

    def status(self, run_id: uuid.UUID) -> RunStatus:
        """Read where a run stands."""
        return RunStatus(self.rows("SELECT status FROM run_state WHERE run_id = $1", run_id)[0]["status"])

    def rows(self, query: str, *arguments: Any) -> list[Any]:
        """Read."""
        return self.do(fetch(self.db, query, *arguments))

    def pick(self, which: int) -> uuid.UUID:
        """Choose a run, the same each time the example is run."""
        return list(self.runs)[which % len(self.runs)]


@pytest.mark.timeout(300)
def test_nothing_that_waits_is_forgotten(migrated_postgres: EmbeddedPostgres) -> None:
    drive(
        WaitingMachine,
        migrated_postgres,
        examples=15,
        steps=40,
        pool_size=4,
        phases=[Phase.generate],  # to shrink a failure takes minutes: add Phase.shrink by hand
    )
