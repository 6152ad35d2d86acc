"""Whatever families of runs do: none passes its limits, nothing that is spent is lost, loans come back."""

import asyncio
import uuid
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from holdfast.embedded import EmbeddedPostgres
from holdfast.kit.db import Database
from holdfast.kit.errors import BudgetExceeded, Fenced, TooManyChildren
from holdfast.ledger.cancel import cancel
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Requeue, Stored
from holdfast.ledger.domain.commit import Charge
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.orphan import cancel_orphans
from holdfast.ledger.spawn import OnParentEnd, Parent, spawn
from holdfast.ledger.values import Leased, Limits, Outcome
from tests.support.ledger import admitted, contradictions, execute, fetch, invocation, opened
from tests.support.state_machine import drive

ROOT = Limits(max_steps=60, max_tools=30, max_tokens=400, max_context=100, deadline_ms=3_600_000)
ANY = st.integers(0, 1000)
LARGEST_CALL = 40  # tokens


@dataclass
class Family:
    """What happened, apart from the ledger: who started whom, and what each has spent by itself."""

    parent: dict[uuid.UUID, uuid.UUID | None] = field(default_factory=dict)
    own: dict[uuid.UUID, list[int]] = field(default_factory=dict)
    """Steps, tools and tokens that the run's own commits have charged."""

    def below(self, run_id: uuid.UUID) -> list[uuid.UUID]:
        """Return a run and all that it, or those below it, have started."""
        found = [run_id]
        for each in found:
            found += [child for child, parent in self.parent.items() if parent == each]
        return found


class BudgetMachine(RuleBasedStateMachine):
    """Runs spawn, spend, end, crash and are cancelled; the sums are held against what was charged."""

    loop: ClassVar[asyncio.Runner]
    db: ClassVar[Database]

    def do(self, coroutine: Any) -> Any:
        """Run a verb."""
        return self.loop.run(coroutine)

    @initialize()
    def begin(self) -> None:
        """Begin with an empty ledger, a runner and a run."""
        tables = (
            "run, run_state, run_outcome, idempotency, ready, blocked, lane, lease, timer, mailbox, child, "
        )
        self.do(execute(self.db, f"TRUNCATE {tables} tenant, tenant_pool, transcript, runner_session"))
        self.family = Family()
        self.leased: dict[uuid.UUID, Leased] = {}
        self.runner = self.do(opened(self.db))
        (root,) = self.do(admitted(self.db, invocation(limits=ROOT)))
        self.root = root.run_id
        self._born(root.run_id, None)
        self.take()

    def _born(self, run_id: uuid.UUID, parent: uuid.UUID | None) -> None:
        self.family.parent[run_id] = parent
        self.family.own[run_id] = [0, 0, 0]

    def pick(self, which: int) -> Leased:
        """Choose a run that a runner has, or had."""
        return list(self.leased.values())[which % len(self.leased)]

    @rule()
    def take(self) -> None:
        """Lease all that waits."""
        for run in self.do(self.runner.take(99)):
            self.leased[run.run_id] = run

    @precondition(lambda self: self.leased)
    @rule(
        which=ANY, goes_on=st.booleans(), share=st.booleans(), steps=st.integers(1, 20), again=st.booleans()
    )
    def spawn(self, which: int, goes_on: bool, share: bool, steps: int, again: bool) -> None:  # noqa: FBT001
        """Start a child, perhaps twice under one key as after a crash between the spawn and its record."""
        run = self.pick(which)
        policy = OnParentEnd.CONTINUE if goes_on else OnParentEnd.CANCEL
        limits = Limits() if share else Limits(max_steps=steps, max_tools=steps // 2, max_tokens=steps * 7)
        child = invocation(limits=limits)
        for _ in range(1 + again):
            try:
                spawned = self.do(spawn(self.db, child, Parent(run.run_id, run.epoch, policy)))
            except (Fenced, BudgetExceeded, TooManyChildren):
                return
            if child.run_id not in self.family.parent:
                assert spawned.admitted.created
                self._born(child.run_id, run.run_id)
            else:
                assert not spawned.admitted.created
            child = replace(child, run_id=child.run_id)

    @precondition(lambda self: self.leased)
    @rule(which=ANY, steps=st.integers(0, 9), tools=st.integers(0, 4), tokens=st.integers(0, LARGEST_CALL))
    def charge(self, which: int, steps: int, tools: int, tokens: int) -> None:
        """Let a run, or a zombie of it, spend."""
        run = self.pick(which)
        charge = Charge(steps, tools, tokens)
        item = CommitItem(run.run_id, run.epoch, run.last_commit + 1, charge=charge)
        (answer,) = self.do(commit_group(self.db, [item]))
        if isinstance(answer, Stored):
            self.leased[run.run_id] = replace(run, last_commit=run.last_commit + 1)
            own = self.family.own[run.run_id]
            own[:] = [own[0] + steps, own[1] + tools, own[2] + tokens]

    @precondition(lambda self: len(self.leased) > 1)
    @rule(
        which=st.lists(ANY, min_size=1, max_size=4),
        how=st.sampled_from([RunStatus.SUCCEEDED, RunStatus.FAILED]),
    )
    def end(self, which: list[int], how: RunStatus) -> None:
        """End some of them in one group."""
        runs = {run.run_id: run for run in map(self.pick, which)}
        items = [
            CommitItem(run.run_id, run.epoch, run.last_commit + 1, move=Outcome(how, b"1"))
            for run in runs.values()
        ]
        self.do(commit_group(self.db, items))
        for run_id in runs:
            del self.leased[run_id]

    @precondition(lambda self: self.leased)
    @rule(which=ANY)
    def crash(self, which: int) -> None:
        """Let an attempt fail; who had the lease is a zombie until the run is leased again."""
        run = self.pick(which)
        item = CommitItem(run.run_id, run.epoch, run.last_commit + 1, move=Requeue())
        if isinstance(self.do(commit_group(self.db, [item]))[0], Stored):
            self.leased[run.run_id] = replace(run, last_commit=run.last_commit + 1)

    @precondition(lambda self: self.family.parent)
    @rule(which=ANY)
    def cancel(self, which: int) -> None:
        """Ask any run to stop."""
        run_id = list(self.family.parent)[which % len(self.family.parent)]
        self.do(cancel(self.db, "acme", run_id))

    @rule()
    def sweep(self) -> None:
        """End what waits and shall not."""
        self.do(cancel_orphans(self.db))

    @invariant()
    def the_books_agree(self) -> None:
        """Hold the ledger against itself, and against what was charged."""
        if not hasattr(self, "family"):
            return
        assert self.do(contradictions(self.db)) == []
        rows = {row["run_id"]: row for row in self.do(fetch(self.db, "SELECT * FROM run_state"))}
        loans = {row["run_id"]: row for row in self.do(fetch(self.db, "SELECT * FROM child"))}
        for run_id, row in rows.items():
            assert row["lent_steps"] >= 0
            assert row["steps"] + row["lent_steps"] <= row["max_steps"]
            assert row["tools"] + row["lent_tools"] <= row["max_tools"]
            in_flight = len(self.family.below(run_id)) * LARGEST_CALL
            assert row["tokens"] + row["lent_tokens"] < row["max_tokens"] + in_flight
        # Each run that ended is charged to whoever lent to it: so what one root's row says, and what is still
        # out on loan, is all that was spent below it.
        living = [rows[run_id] for run_id in loans]
        for place, name in enumerate(("steps", "tools", "tokens")):
            spent = sum(own[place] for own in self.family.own.values())
            assert rows[self.root][name] + sum(row[name] for row in living) == spent

    def teardown(self) -> None:
        """End everything: no loan is left, and the root was charged with all there was."""
        if not hasattr(self, "family"):
            return
        for run_id in self.family.parent:
            self.do(cancel(self.db, "acme", run_id))
        for run in self.do(self.runner.take(99)):
            self.leased[run.run_id] = run
        for row in self.do(
            fetch(self.db, "SELECT run_id, epoch, last_commit FROM run_state WHERE status = 2")
        ):
            item = CommitItem(
                row["run_id"], row["epoch"], row["last_commit"] + 1, move=Outcome(RunStatus.CANCELLED)
            )
            assert isinstance(self.do(commit_group(self.db, [item]))[0], Stored)
        while self.do(cancel_orphans(self.db)).count:
            pass
        assert self.do(fetch(self.db, "SELECT run_id FROM child")) == []
        self.the_books_agree()


@pytest.mark.timeout(300)
def test_a_family_never_spends_more_than_its_root_may(migrated_postgres: EmbeddedPostgres) -> None:
    drive(BudgetMachine, migrated_postgres, examples=30, steps=30)
