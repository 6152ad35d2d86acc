"""A chunk of light items: each with its own budget and end, all recorded by one commit under one lease."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from holdfast.agent import App, Permanent, Run
from holdfast.agent.chunk import LARGEST, Chunk
from holdfast.agent.engine.journal import Answer, Committed, Refused
from holdfast.agent.error import HandedBack, LeaseLost, RunCancelled
from holdfast.agent.execution import Left
from holdfast.agent.wire.invocation import Invocation
from holdfast.v1.checkpoint_pb2 import Commit
from holdfast.v1.transcript_pb2 import RunEvent
from tests.agent.memory import AMPLE
from tests.kit.until import until

BATCH = "11111111-1111-4111-8111-111111111111"
app = App("light")
begun: list[Any] = []


class Journal:
    """Keeps commits, and answers as it is told."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.commits: list[Commit] = []
        self.events: list[RunEvent] = []
        self.answer: Answer | None = answer or Committed()

    def commit(self, commit: Commit, answered: Callable[[Answer], None]) -> None:
        self.commits.append(Commit.FromString(commit.SerializeToString()))
        if self.answer is not None:
            asyncio.get_running_loop().call_soon(answered, self.answer)

    def happened(self, event: RunEvent) -> None:
        self.events.append(event)

    @property
    def said(self) -> list[dict[str, Any]]:
        result = self.commits[0].end.result.string_value
        return json.loads(result)  # type: ignore[no-any-return]


async def double(number: int) -> int:
    return number * 2


@app.agent("double", light=True)
async def agent(run: Run, payload: dict[str, Any]) -> Any:
    begun.append(payload)
    match payload.get("do"):
        case "fail":
            raise Permanent("never")
        case "flake":
            raise RuntimeError("perhaps later")
        case "hang":
            await asyncio.Event().wait()
        case "effect":
            run.send("crm", {"a": 1})
        case "rest":
            await run.sleep(3600)
        case "ask":
            await run.approval("gate", approvers=["user:ada"], timeout=60)
        case "steps":
            for number in range(100):
                await run.step(double, number)
        case "much":
            return "x" * payload["n"]
    return [run.id, await run.step(double, payload["n"])]


def chunk(
    journal: Journal, *payloads: dict[str, Any], deadline_ms: int = 60_000, steps: int = 50, **more: Any
) -> Chunk:
    begun.clear()
    items = [{"index": at, "attempt": 1, "payload": payload} for at, payload in enumerate(payloads)]
    text = json.dumps({"batch_id": BATCH, "limits": [deadline_ms, steps, 0, 0, 0], "items": items})
    invocation = Invocation(
        "22222222-2222-4222-8222-222222222222", "double#light", {"chunk": text}, AMPLE, epoch=3
    )
    return Chunk(app.agents["double"], invocation, journal, models=app.models, **more)


async def test_each_item_ends_for_itself_and_one_commit_says_how() -> None:
    journal = Journal()
    done = await chunk(
        journal, {"n": 1}, {"do": "fail"}, {"do": "flake"}, {"do": "hang"}, {"do": "steps"}, deadline_ms=2_000
    ).run()
    assert done is Left.ENDED
    (commit,) = journal.commits
    assert (commit.epoch, commit.number, len(commit.steps)) == (3, 1, 0)
    assert [item["status"] for item in journal.said] == [5, 7, 10, 6, 6]
    good, failed, flaky, late, many = journal.said
    assert json.loads(good["result"])[1] == 2
    assert good["steps"] == 1
    assert failed["failure"]["reason"] == "PERMANENT"
    assert flaky["failure"]["message"] == "perhaps later"
    assert late["exhausted"] == 1
    assert (many["exhausted"], many["steps"]) == (2, 50)
    assert [event.sequence for event in commit.events.events] == [1, 2]
    ended = commit.events.events[-1].ended.outcome
    assert ended.result.WhichOneof("kind") == "null_value", "outputs are not told twice"


async def test_an_item_is_the_same_run_to_its_agent_whenever_it_is_executed() -> None:
    ids = []
    for _ in range(2):
        journal = Journal()
        await chunk(journal, {"n": 1}, {"n": 2}).run()
        ids.append([json.loads(item["result"])[0] for item in journal.said])
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2


@pytest.mark.parametrize("what", ["effect", "rest", "ask"])
async def test_what_only_a_run_can_do_fails_the_item_with_a_sentence(what: str) -> None:
    journal = Journal()
    await chunk(journal, {"do": what, "n": 1}, {"n": 2}).run()
    refused, good = journal.said
    assert (refused["status"], refused["failure"]["reason"]) == (7, "LIGHT_ITEM")
    assert "light=True" in refused["failure"]["message"]
    assert good["status"] == 5
    assert not journal.commits[0].effects


async def test_a_chunk_handed_back_records_what_has_ended_and_leaves_the_rest() -> None:
    journal = Journal()
    running = chunk(journal, {"n": 1}, {"do": "hang"})
    task = asyncio.ensure_future(running.run())
    async with asyncio.timeout(10):
        await until(lambda: len(begun) == 2 and running.executing == 1)
        running.stop(HandedBack())
        assert await task is Left.ENDED
    assert [item["status"] for item in journal.said] == [5, 0]


async def test_a_cancelled_chunk_cancels_its_items_also_those_not_yet_begun() -> None:
    journal = Journal()
    running = chunk(journal, {"do": "hang"}, {"do": "hang"}, gate=asyncio.Semaphore(1))
    task = asyncio.ensure_future(running.run())
    async with asyncio.timeout(10):
        await until(lambda: bool(begun))
        running.stop(RunCancelled("enough"))
        assert await task is Left.ENDED
    assert len(begun) == 1
    assert [item["status"] for item in journal.said] == [8, 8]


async def test_a_lost_lease_commits_nothing_and_waits_for_no_answer() -> None:
    journal = Journal()
    running = chunk(journal, {"do": "hang"})
    task = asyncio.ensure_future(running.run())
    async with asyncio.timeout(10):
        await until(lambda: bool(begun))
        running.stop(LeaseLost("gone"))
        assert await task is Left.LOST
    assert not journal.commits
    silent = Journal()
    silent.answer = None
    running = chunk(silent, {"n": 1})
    task = asyncio.ensure_future(running.run())
    async with asyncio.timeout(10):
        await until(lambda: bool(silent.commits))
        running.stop(LeaseLost("gone"))
        assert await task is Left.LOST


async def test_a_fenced_chunk_is_lost_and_a_refused_one_fails_once_more_without_results() -> None:
    assert await chunk(Journal(Refused("FENCED", "no")), {"n": 1}).run() is Left.LOST
    journal = Journal(Refused("INVALID_FIELD", "no"))
    assert await chunk(journal, {"n": 1}).run() is Left.REFUSED
    assert [commit.end.status for commit in journal.commits] == [5, 7]


async def test_outputs_that_do_not_fit_together_are_left_to_chunks_of_their_own() -> None:
    journal = Journal()
    size = LARGEST * 2 // 5
    await chunk(journal, *({"do": "much", "n": size} for _ in range(4))).run()
    # Those that end first have the room, and which these are is not said.
    said = sorted((item["status"], item.get("alone", False)) for item in journal.said)
    assert said == [(0, True), (0, True), (5, False), (5, False)]
    assert journal.commits[0].ByteSize() < 3 * 1024 * 1024


async def test_one_that_returns_too_much_takes_the_place_of_none_of_the_others() -> None:
    journal = Journal()
    sizes = (900_000, 400_000, 300_000, 200_000)
    await chunk(journal, *({"do": "much", "n": size} for size in sizes)).run()
    assert [item["status"] for item in journal.said] == [0, 5, 5, 5]
    assert [item.get("alone", False) for item in journal.said] == [True, False, False, False]


async def test_what_an_agent_may_run_at_once_bounds_its_items_too() -> None:
    most = 0

    class Counting(asyncio.Semaphore):
        async def __aenter__(self) -> None:
            nonlocal most
            await super().__aenter__()
            most = max(most, 2 - self._value)

    journal = Journal()
    await chunk(journal, *({"n": n} for n in range(6)), gate=Counting(2)).run()
    assert most == 2
    assert {item["status"] for item in journal.said} == {5}


async def test_who_watches_a_chunk_is_told_of_the_steps_of_all_its_items() -> None:
    watched: list[str] = []

    class Watcher:
        def step(self, key: str, _name: str, _kind: int) -> AbstractContextManager[object]:
            watched.append(key)
            return nullcontext()

        def tried_again(self, _kind: int) -> None:
            raise AssertionError

        def model(self, _model: str, _where: str) -> Any:
            raise AssertionError

    assert await chunk(Journal(), {"n": 1}, {"n": 2}, observer=Watcher()).run() is Left.ENDED
    assert watched == ["double", "double"]
