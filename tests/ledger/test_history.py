"""What was committed is read back whole, in pages, by the holder of the lease and by the run's tenant."""

import uuid

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import Fenced, RunNotFound
from holdfast.ledger import history
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Record
from holdfast.ledger.domain.commit import Charge
from holdfast.ledger.session import hand_back
from holdfast.ledger.values import Limits
from tests.support.commit import Floor, commit, lease_ref


@pytest.fixture
async def floor(db: Database) -> Floor:
    return await Floor(db).open()


async def test_all_steps_come_back_in_order_over_many_pages(db: Database, floor: Floor) -> None:
    (run,) = await floor.lease(limits=Limits(max_steps=5000))
    for number in range(1, 6):
        records = [Record(f"step#{number}.{n}", b"r" * 10) for n in range(240)]
        await commit_group(db, [CommitItem(run.run_id, run.epoch, number, records, Charge(steps=240))])
    pages = [page async for page in history.load_steps(db, run.run_id, run.epoch)]
    assert [page.more for page in pages] == [True, True, False]
    assert [step.position for page in pages for step in page.steps] == list(range(1, 1201))


async def test_a_page_is_bounded_in_bytes_but_never_empty(db: Database, floor: Floor) -> None:
    (run,) = await floor.lease(limits=Limits(max_steps=5000))
    sizes = [10, 3_000_000, 400_000, 400_000, 400_000, 10]
    for number, size in enumerate(sizes, 1):
        await commit_group(db, [CommitItem(run.run_id, run.epoch, number, [Record("k", b"r" * size)])])
    pages = [page async for page in history.load_steps(db, run.run_id, run.epoch)]
    assert [[len(step.record) for step in page.steps] for page in pages] == [
        [10],
        [3_000_000],
        [400_000, 400_000],
        [400_000, 10],
    ]


async def test_a_run_without_steps_has_one_empty_page(db: Database, floor: Floor) -> None:
    (run,) = await floor.lease()
    pages = [page async for page in history.load_steps(db, run.run_id, run.epoch)]
    assert [(page.steps, page.more) for page in pages] == [([], False)]
    assert (await history.beginning(db, run.run_id, run.epoch)).emitted == {}


async def test_what_each_scope_emitted_is_the_sum_of_what_its_commits_say(db: Database, floor: Floor) -> None:
    (run,) = await floor.lease()
    for number, counts in enumerate(['{"": 2, "map.1": 1}', None, '{"map.1": 4}'], 1):
        await commit_group(db, [commit(run, number, events=1, first=number + 1, emitted=counts)])
    assert (await history.beginning(db, run.run_id, run.epoch)).emitted == {"": 2, "map.1": 5}


async def test_only_the_holder_of_the_lease_loads_a_run(db: Database, floor: Floor) -> None:
    (run,) = await floor.lease()
    with pytest.raises(RunNotFound):
        await history.beginning(db, uuid.uuid4(), 1)
    with pytest.raises(Fenced):
        await history.beginning(db, run.run_id, run.epoch + 1)
    await hand_back(db, floor.session_id, [lease_ref(run)])
    with pytest.raises(Fenced):
        await history.beginning(db, run.run_id, run.epoch)


async def test_people_page_through_the_checkpoints_of_their_own_tenant(db: Database, floor: Floor) -> None:
    (run,) = await floor.lease()
    await commit_group(db, [commit(run, 1, keys=[f"k{n}" for n in range(5)])])
    first = await history.list_steps(db, "default", run.run_id, after_position=0, limit=3)
    assert ([step.key for step in first.steps], first.more) == (["k0", "k1", "k2"], True)
    rest = await history.list_steps(db, "default", run.run_id, after_position=3, limit=3)
    assert ([step.key for step in rest.steps], rest.more) == (["k3", "k4"], False)
    with pytest.raises(RunNotFound):
        await history.list_steps(db, "another", run.run_id, after_position=0, limit=3)
