"""A stream applied in order is the committed transcript, whatever dies on the way."""

import asyncio
import random
from functools import partial
from typing import Any
from uuid import UUID

import grpc
import pytest

from holdfast.kit.loops import Signal
from holdfast.v1 import run_pb2
from tests.invoker.runner import Held, Runner, runner
from tests.invoker.stand import Invoker, invoker, pb, reason_of
from tests.invoker.watcher import Watcher
from tests.kit.until import until
from tests.support.ledger import execute, fetch, open_ledger


async def committed(door: Invoker, run_id: str) -> list[Any]:
    """Return the transcript of a run that has ended."""
    return await Watcher(door, run_id).finished()


async def test_live_events_are_shown_before_they_are_committed(door: Invoker, worker: Runner) -> None:
    run_id = (await door.invoke()).run.run_id
    held = await worker.take(run_id)
    watchers = [Watcher(door, run_id) for _ in range(3)]
    held.show("a", "b")
    for watcher in watchers:
        await watcher.heard("b")
    assert (await door.run(run_id)).last_sequence == 1
    late = Watcher(door, run_id)
    await late.heard("b")
    await worker.end(held)
    expected = await committed(door, run_id)
    for watcher in [*watchers, late]:
        assert await watcher.finished() == expected
        assert watcher.rewound == 0
    assert worker.attached == 1  # one stream for all of them
    assert expected[0].accepted.budget.max_steps > 0


async def test_what_died_with_its_runner_is_rewound_for_those_who_stay_and_those_who_return(
    door: Invoker, worker: Runner, commits: str
) -> None:
    run_id = (await door.invoke()).run.run_id
    held = await worker.take(run_id)
    stays, returns = Watcher(door, run_id), Watcher(door, run_id)
    held.show("kept")
    await worker.commit(held)
    held.show("lost", "lost too")
    for watcher in (stays, returns):
        await watcher.heard("lost too")
    sequence, epoch = len(returns.events), returns.events[-1].epoch
    await worker.die()
    async with runner(door.address, commits, slots=1) as other:
        again = await other.take(run_id)
        again.show("anew", "and on")
        await other.commit(again)
        await stays.heard("and on")
        assert stays.said() == ["kept", "anew", "and on"]
        call = door.invoker.WatchRun(
            pb.WatchRunRequest(run_id=run_id, after_sequence=sequence, after_epoch=epoch)
        )
        first = await call.read()
        assert first.rewound.to_sequence == 2
        call.cancel()
        await other.end(again)
    expected = await committed(door, run_id)
    for watcher in (stays, returns):
        assert await watcher.finished() == expected
        assert watcher.rewound == 1


async def test_a_runner_without_a_runner_service_is_followed_and_reached_all_the_same(
    door: Invoker, commits: str, database_url: str
) -> None:
    one = Runner(door.address, commits, ["count"])
    one.attachable = False
    await one.start(1)
    try:
        async with invoker(database_url) as other:
            run_id = (await door.invoke()).run.run_id
            held = await one.take(run_id)
            watchers = [Watcher(door, run_id), Watcher(other, run_id)]
            held.show("committed")
            await one.commit(held)
            for watcher in watchers:
                await watcher.heard("committed")
            await other.invoker.SignalRun(
                pb.SignalRunRequest(run_id=run_id, key="input", payload={"string_value": "hear this"})
            )
            await until(lambda: [key for key, _ in one.signals] == ["input"])
            await other.invoker.CancelRun(pb.CancelRunRequest(run_id=run_id, reason="enough"))
            await until(lambda: one.cancels == [run_id])
            await one.end(held)
            expected = await committed(door, run_id)
            for watcher in watchers:
                assert await watcher.finished() == expected
        assert one.attached == 0
    finally:
        await one.die()


class Chaos:
    """Random life of one run under the eyes of watchers who come and go."""

    def __init__(self, seed: int, doors: list[Invoker], commits: str, intent: str, run_id: str) -> None:
        self.random = random.Random(seed)
        self.doors = doors
        self.commits = commits
        self.intent = intent
        self.run_id = run_id
        self.watchers: list[Watcher] = []
        self.shown = 0

    async def live(self) -> None:
        """Live until the end; then compare."""
        epoch, ended = 0, False
        while not ended:
            one = Runner(self.random.choice(self.doors).address, self.commits, [self.intent])
            await one.start(1)
            held = await one.take(self.run_id, epoch=epoch)
            epoch = held.epoch + 1
            for _ in range(self.random.randrange(2, 12)):
                await self._move(one, held)
            ended = self.random.random() < 0.3
            if ended:
                await one.end(held, hint=self.random.random() < 0.5)
            elif self.random.random() < 0.3:
                held.show_end(run_pb2.Outcome(status=run_pb2.RUN_STATUS_SUCCEEDED))  # never committed
            await one.die()
        expected = await committed(self.doors[0], self.run_id)
        assert expected[-1].HasField("ended")
        for watcher in self.watchers:
            assert await watcher.finished() == expected

    async def _move(self, one: Runner, held: Held) -> None:
        dice = self.random.random()
        if dice < 0.4:
            texts = [f"{held.epoch}.{self.shown + n}" for n in range(self.random.randrange(1, 4))]
            self.shown += len(texts)
            held.show(*texts)
        elif dice < 0.6:
            await one.commit(held)
        elif dice < 0.75:
            self.watchers.append(Watcher(self.random.choice(self.doors), self.run_id))
        elif dice < 0.9 and self.watchers:
            self.random.choice(self.watchers).reconnect(self.random.choice(self.doors))
        elif self.watchers and held.events:
            watcher = self.random.choice(self.watchers)
            last = held.events[-1].sequence
            await until(lambda: watcher.ended or len(watcher.events) >= last)


async def test_whatever_happens_the_stream_applied_is_the_transcript(database_url: str, commits: str) -> None:
    quick = {"broken_stream_grace": 0.0, "queue_unknown_intents": True, "max_attempts": 100}
    async with invoker(database_url, **quick) as one, invoker(database_url, **quick) as two:
        for seed in range(4):
            lives = []
            for n in range(4):
                intent = f"life-{seed}-{n}"  # each life has runners of its own
                run_id = (await one.invoke(intent)).run.run_id
                lives.append(Chaos(seed * 10 + n, [one, two], commits, intent, run_id).live())
            await asyncio.gather(*lives)


async def test_a_premature_end_is_never_shown(door: Invoker, worker: Runner) -> None:
    run_id = (await door.invoke()).run.run_id
    held = await worker.take(run_id)
    watcher = Watcher(door, run_id)
    held.show("last words")
    held.show_end(run_pb2.Outcome(status=run_pb2.RUN_STATUS_SUCCEEDED))
    await watcher.heard("last words")
    await door.parts.followers.loop.signal.completed(2)
    assert len(watcher.events) == 2
    assert not watcher.ended
    outcome = run_pb2.Outcome(status=run_pb2.RUN_STATUS_SUCCEEDED)
    await worker.commit(held, end=outcome)
    assert (await watcher.finished())[-1].HasField("ended")


async def test_a_cursor_beyond_the_end_is_out_of_range(door: Invoker, worker: Runner) -> None:
    run_id = (await door.invoke()).run.run_id
    await worker.end(await worker.take(run_id))
    call = door.invoker.WatchRun(pb.WatchRunRequest(run_id=run_id, after_sequence=99))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert reason_of(caught.value) == "SEQUENCE_OUT_OF_RANGE"
    last = (await door.run(run_id)).last_sequence
    at_end = door.invoker.WatchRun(pb.WatchRunRequest(run_id=run_id, after_sequence=last))
    assert await at_end.read() is grpc.aio.EOF


async def test_a_cursor_beyond_what_a_running_run_ever_had_is_out_of_range_once_it_ends(
    door: Invoker, worker: Runner
) -> None:
    run_id = (await door.invoke()).run.run_id
    held = await worker.take(run_id)
    call = door.invoker.WatchRun(pb.WatchRunRequest(run_id=run_id, after_sequence=99))
    reading = asyncio.ensure_future(call.read())
    followed = door.parts.followers._following
    await until(lambda: any(each._epoch for each in followed.get(UUID(run_id), ())))
    await worker.end(held)
    async with asyncio.timeout(5):
        first = await reading
    assert first.rewound.to_sequence == 2  # taken as of the lease that lived: what it never had is dropped


async def test_one_who_does_not_read_holds_up_nobody(door: Invoker, worker: Runner) -> None:
    run_id = (await door.invoke()).run.run_id
    held = await worker.take(run_id)
    slow = door.invoker.WatchRun(pb.WatchRunRequest(run_id=run_id))
    await slow.read()
    brisk = Watcher(door, run_id)
    for n in range(40):
        held.show(*(f"{n}.{m} {'x' * 1000}" for m in range(100)))
        await worker.commit(held)
    async with asyncio.timeout(10):
        await until(lambda: len(brisk.events) == 4001)
    await worker.end(held)
    expected = await brisk.finished()
    seen = [update.event async for update in _rest(slow)]
    assert seen == expected[1:]


async def _rest(call: Any) -> Any:
    while (update := await call.read()) is not grpc.aio.EOF:
        yield update


class Counted:
    """A ledger that counts who borrows a connection."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self.borrowed = 0

    def connection(self) -> Any:
        self.borrowed += 1
        return self._db.connection()


async def test_a_thousand_idle_watchers_cost_one_query_a_second(door: Invoker, worker: Runner) -> None:
    runs = [(await door.invoke(idempotency_key=f"{n}")).run.run_id for n in range(20)]
    await until(lambda: len(worker.held) == 10)  # ten are leased, ten wait
    counted: Any = Counted(door.parts.db)
    door.parts.followers._db = counted
    calls = [door.invoker.WatchRun(pb.WatchRunRequest(run_id=runs[n % 20])) for n in range(1000)]
    await asyncio.gather(*(call.read() for call in calls))
    rounds = door.parts.followers.loop.signal
    await rounds.completed(2)
    before, rounds_before = counted.borrowed, rounds.rounds
    await rounds.completed(3)
    assert counted.borrowed - before <= rounds.rounds - rounds_before + 1
    for call in calls:
        call.cancel()
    await until(lambda: not door.parts.followers._following)


async def test_watchers_of_a_runner_out_of_reach_see_what_is_committed(door: Invoker, worker: Runner) -> None:
    run_id = (await door.invoke()).run.run_id
    held = await worker.take(run_id)
    assert worker._server is not None
    await worker._server.stop(0)
    watcher = Watcher(door, run_id)
    held.show("committed")
    await worker.commit(held)
    await watcher.heard("committed")
    await worker.end(held)
    await watcher.finished()


async def forget(door: Invoker, run_id: str, *, up_to: int = 1_000_000) -> None:
    """Lose a run's events, as if their day had been dropped."""
    async with open_ledger(door.url) as db:
        await execute(
            db, "DELETE FROM transcript WHERE run_id = $1 AND last_sequence <= $2", UUID(run_id), up_to
        )


@pytest.mark.parametrize("cursor", [(0, 0), (2, 0), (2, 1), (3, 1), (9, 1)])
async def test_a_cursor_older_than_what_is_kept_is_given_a_snapshot(
    door: Invoker, worker: Runner, cursor: tuple[int, int]
) -> None:
    run_id = (await door.invoke()).run.run_id
    held = await worker.take(run_id)
    held.show("a", "b")
    await worker.end(held)
    last = (await door.run(run_id)).last_sequence
    await forget(door, run_id)
    after = {"after_sequence": cursor[0], "after_epoch": cursor[1]}
    watch = door.invoker.WatchRun(pb.WatchRunRequest(run_id=run_id, **after))
    snapshot = (await watch.read()).snapshot
    assert (snapshot.sequence, snapshot.run.run_id) == (last, run_id)
    assert snapshot.run.outcome.result.string_value == "done"
    assert await watch.read() is grpc.aio.EOF
    converse = door.invoker.Converse(iter([pb.ConverseRequest(attach={"run_id": run_id, **after})]))
    assert (await converse.read()).started.reattached
    assert (await converse.read()).snapshot == snapshot
    assert await converse.read() is grpc.aio.EOF


async def test_after_a_snapshot_the_stream_goes_on(door: Invoker, worker: Runner) -> None:
    run_id = (await door.invoke()).run.run_id
    held = await worker.take(run_id)
    for text in ("a", "b", "c"):
        held.show(text)
        await worker.commit(held)
    await forget(door, run_id, up_to=3)
    watch = door.invoker.WatchRun(pb.WatchRunRequest(run_id=run_id, after_sequence=1))
    assert (await watch.read()).snapshot.sequence == 3
    assert (await watch.read()).event.said.text == "c"
    held.show("d")
    assert (await watch.read()).event.said.text == "d"
    await worker.end(held)
    assert (await watch.read()).event.HasField("ended")
    assert await watch.read() is grpc.aio.EOF


async def test_a_cursor_at_the_end_needs_nothing_that_is_not_kept(door: Invoker, worker: Runner) -> None:
    run_id = (await door.invoke()).run.run_id
    await worker.end(await worker.take(run_id))
    last = (await door.run(run_id)).last_sequence
    await forget(door, run_id)
    watch = door.invoker.WatchRun(pb.WatchRunRequest(run_id=run_id, after_sequence=last))
    assert await watch.read() is grpc.aio.EOF
    beyond = door.invoker.WatchRun(pb.WatchRunRequest(run_id=run_id, after_sequence=last + 1))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await beyond.read()
    assert reason_of(caught.value) == "SEQUENCE_OUT_OF_RANGE"


async def test_an_invoker_drops_history_by_its_setting(database_url: str) -> None:
    async with open_ledger(database_url) as db:
        await execute(db, "CREATE TABLE transcript_20200101 PARTITION OF transcript FOR VALUES FROM "
                      "('2020-01-01') TO ('2020-01-02')")  # fmt: skip
        left = "SELECT to_regclass('transcript_20200101') IS NOT NULL AS is_there"
        for days, is_there in ((0, True), (1, False)):
            async with invoker(database_url, history_days=days) as one:
                # The first round begins with the Invoker; one that drops a day is followed by another.
                rounds = one.parts.caretaker.retention.signal
                await until(partial(_reached, rounds, 1 if is_there else 2))
            assert (await fetch(db, left))[0]["is_there"] is is_there


def _reached(signal: Signal, rounds: int) -> bool:
    return signal.rounds >= rounds
