"""What arrives while a group is stored is the next group; nobody waits for nothing, and none is forgotten."""

import asyncio
import uuid
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from holdfast.checkpoint.group import MAX_BYTES, MAX_COMMITS, Line
from holdfast.checkpoint.metrics import PROGRESS, CheckpointMetrics, LineMetrics
from holdfast.kit import rest
from holdfast.kit.errors import LedgerUnavailable
from holdfast.ledger.commit_value import CommitItem, CommitResult, Refused, Stored
from holdfast.ledger.domain.status import RunStatus

DONE = Stored(RunStatus.RUNNING, cancel_requested=False)


def counted(registry: CollectorRegistry, answer: str) -> float | None:
    return registry.get_sample_value("holdfast_commits_total", {"line": PROGRESS, "answer": answer})


class Desk:
    """Both ends of a line: stores groups when it is let, and collects the answers."""

    def __init__(self) -> None:
        self.groups: list[list[CommitItem]] = []
        self.answers: list[tuple[CommitItem, CommitResult]] = []
        self.open = asyncio.Event()
        self.began = asyncio.Event()
        self.answered = asyncio.Event()
        self.error: Exception | None = None
        self.registry = CollectorRegistry()
        self.line = Line(self._store, LineMetrics(CheckpointMetrics(self.registry), PROGRESS))

    async def _store(self, items: Sequence[CommitItem]) -> list[CommitResult]:
        self.groups.append(list(items))
        self.began.set()
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return [DONE for _ in items]

    def answer(self, item: CommitItem, size: int, result: CommitResult) -> None:
        del size
        self.answers.append((item, result))
        self.answered.set()

    def put(self, run_id: uuid.UUID | None = None, number: int = 1, size: int = 100) -> CommitItem:
        item = CommitItem(run_id or uuid.uuid4(), 1, number)
        self.line.put(item, size, self)
        return item

    async def settle(self) -> None:
        self.open.set()
        self.line.close()
        await asyncio.wait_for(self.line.run(), 10)


async def test_a_lone_commit_goes_at_once_and_those_after_it_go_together() -> None:
    desk = Desk()
    running = asyncio.create_task(desk.line.run())
    first = desk.put()
    await asyncio.wait_for(desk.began.wait(), 10)
    rest = [desk.put() for _ in range(20)]
    desk.open.set()
    desk.line.close()
    await asyncio.wait_for(running, 10)
    assert desk.groups == [[first], rest]
    await asyncio.sleep(0)  # answers are counted once they are on their way
    assert counted(desk.registry, "stored") == 21
    assert [item for item, _ in desk.answers] == [first, *rest]


async def test_groups_keep_their_limits() -> None:
    desk = Desk()
    large = {desk.put(size=MAX_BYTES // 2).run_id for _ in range(5)}
    many = {desk.put(size=1).run_id for _ in range(3000)}
    await desk.settle()
    assert max(map(len, desk.groups)) <= MAX_COMMITS
    assert [len({item.run_id for item in group} & large) for group in desk.groups[:3]] == [2, 2, 1]
    assert {item.run_id for item, _ in desk.answers} == large | many
    assert len(desk.answers) == 3005


async def test_commits_of_one_run_never_share_a_group_and_keep_their_order() -> None:
    desk = Desk()
    run = uuid.uuid4()
    greedy = [desk.put(run, number) for number in range(1, 6)]
    others = [desk.put() for _ in range(10)]
    await desk.settle()
    assert desk.groups[0] == [greedy[0], *others]
    assert [item for item, _ in desk.answers if item.run_id == run] == greedy


@pytest.mark.parametrize("error", [LedgerUnavailable("away"), RuntimeError("a bug")])
async def test_a_group_that_fails_is_refused_for_now_and_the_line_goes_on(error: Exception) -> None:
    desk = Desk()
    desk.error = error
    running = asyncio.create_task(desk.line.run())
    desk.put()
    desk.open.set()
    await asyncio.wait_for(desk.answered.wait(), 10)
    ((_, refused),) = desk.answers
    assert isinstance(refused, Refused)
    assert refused.retryable
    assert "a bug" not in refused.fault.message
    desk.error = None
    desk.put()
    desk.line.close()
    await asyncio.wait_for(running, 10)
    assert desk.answers[-1][1] == DONE


async def test_what_arrives_little_by_little_after_a_large_group_goes_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rest, "EACH", 0.02)
    monkeypatch.setattr(rest, "LONGEST", 0.2)
    desk = Desk()
    desk.open.set()
    large = [desk.put() for _ in range(20)]
    running = asyncio.create_task(desk.line.run())
    await asyncio.wait_for(desk.answered.wait(), 10)
    later = []
    for _ in range(5):
        later.append(desk.put())
        await asyncio.sleep(0.005)
    desk.line.close()
    await asyncio.wait_for(running, 10)
    assert desk.groups == [large, later]


async def test_what_a_full_group_has_left_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "EACH", 60.0)
    monkeypatch.setattr(rest, "LONGEST", 60.0)
    desk = Desk()
    for _ in range(2 * MAX_COMMITS + 1):
        desk.put()
    await desk.settle()
    assert [len(group) for group in desk.groups] == [MAX_COMMITS, MAX_COMMITS, 1]
