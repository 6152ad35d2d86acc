"""Who waits for a run is told of its end once: by the end's own COMMIT, or by what is gathered after it."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from holdfast.checkpoint.store import Storing
from holdfast.kit.db import Database
from holdfast.ledger.commit_value import CommitItem, CommitResult, Refused, Requeue, Stored
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.notice import ENDED, Notices
from holdfast.ledger.values import Outcome
from tests.support.commit import Floor, commit
from tests.support.ear import Ear

DONE = Outcome(RunStatus.SUCCEEDED, b'"done"')
LAST = "last"


@pytest.fixture
async def ear(db: Database) -> AsyncIterator[Ear]:
    ear = Ear(db, ENDED)
    await asyncio.wait_for(ear.listener.listening.wait(), 10)
    yield ear
    await ear.listener.close()


async def store(db: Database, ear: Ear, items: Sequence[CommitItem]) -> tuple[list[CommitResult], list[str]]:
    """Store a group; return the answers, and every payload that was heard of it."""
    notices = Notices(db)
    answers = await Storing(db, notices)(items)
    await notices.close()
    notices.send(ENDED, [LAST])  # notices are heard in the order of their COMMITs
    await notices.close()
    return answers, await ear.until(LAST)


async def test_a_run_that_ends_alone_is_told_of_by_its_commit(db: Database, floor: Floor, ear: Ear) -> None:
    (run,) = await floor.lease()
    ((answer,), heard) = await store(db, ear, [commit(run, 1, keys=["last"], move=DONE)])
    assert isinstance(answer, Stored)
    assert answer.told
    assert heard == [str(run.run_id)]


async def test_runs_that_end_together_are_told_of_together(db: Database, floor: Floor, ear: Ear) -> None:
    runs = await floor.lease(8)
    answers, heard = await store(db, ear, [commit(run, 1, move=DONE) for run in runs])
    assert not any(answer.told for answer in answers if isinstance(answer, Stored))
    assert [set(payload.split()) for payload in heard] == [{str(run.run_id) for run in runs}]


async def test_an_end_that_does_not_land_is_not_told(db: Database, floor: Floor, ear: Ear) -> None:
    (run,) = await floor.lease()
    answers, heard = await store(db, ear, [commit(run, 2, move=DONE)])
    assert [type(answer) for answer in answers] == [Refused]
    assert heard == []


async def test_an_end_that_sets_others_free_is_told_once(db: Database, floor: Floor, ear: Ear) -> None:
    await floor.admit(2, ordering_key="loan-7")
    (run,) = await floor.take(2)
    (_, heard) = await store(db, ear, [commit(run, 1, move=DONE)])
    assert heard == [str(run.run_id)]


async def test_a_run_that_goes_back_is_told_once(db: Database, floor: Floor, ear: Ear) -> None:
    (run,) = await floor.lease()
    (_, heard) = await store(db, ear, [commit(run, 1, move=Requeue())])
    assert heard == [str(run.run_id)]
