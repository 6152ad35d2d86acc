"""An agent that begins anew leaves behind no gate to decide and no child to wait for, and keeps its lease."""

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import ApprovalDecided
from holdfast.ledger.approval_vote import decide
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Refused, Stored
from holdfast.ledger.domain.approval import ApprovalStatus, Verdict
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.mailbox import signal
from holdfast.ledger.orphan import cancel_orphans
from holdfast.ledger.spawn import OnParentEnd
from tests.ledger.test_approval import ANN, ask, running, status
from tests.ledger.test_child import born, leased
from tests.support.ledger import contradictions, opened, status_of


async def test_the_gates_that_were_open_are_closed_and_those_of_others_are_not(db: Database) -> None:
    run, other = await running(db), await running(db)
    gate, others = await ask(db, run), await ask(db, other)
    sent = await signal(db, "acme", run.run_id, key="input", payload=b'"more"')
    item = CommitItem(run.run_id, run.epoch, 1, consumed=(sent.signal.signal_id,), restarts=True)
    for _ in range(2):  # what is sent again does nothing again
        (answer,) = await commit_group(db, [item])
        assert isinstance(answer, Stored)
        assert answer.status is RunStatus.RUNNING
    assert await status(db, gate) is ApprovalStatus.CANCELLED
    assert await status(db, others) is ApprovalStatus.PENDING
    with pytest.raises(ApprovalDecided):
        await decide(db, "acme", gate, ANN, Verdict.APPROVE)
    assert await ask(db, run, "!restart/review") != gate
    assert await contradictions(db) == []


async def test_the_children_that_go_with_the_run_are_stopped_and_the_others_go_on(db: Database) -> None:
    runner = await opened(db)
    parent = await leased(runner)
    mine, free = await born(db, parent), await born(db, parent, OnParentEnd.CONTINUE)
    (answer,) = await commit_group(db, [CommitItem(parent.run_id, parent.epoch, 1, restarts=True)])
    assert isinstance(answer, Stored)
    assert (await cancel_orphans(db)).ended == [mine]
    assert await status_of(db, free) is RunStatus.QUEUED
    assert await status_of(db, parent.run_id) is RunStatus.RUNNING
    assert await contradictions(db) == []


async def test_a_runner_that_lost_the_run_closes_nothing(db: Database) -> None:
    run = await running(db)
    gate = await ask(db, run)
    (answer,) = await commit_group(db, [CommitItem(run.run_id, run.epoch - 1, 1, restarts=True)])
    assert isinstance(answer, Refused)
    assert await status(db, gate) is ApprovalStatus.PENDING
