"""Over the wire: each commit is answered by itself, and a malformed one is refused naming its fields."""

import math
import uuid
from collections.abc import Callable

import grpc

from holdfast.v1 import run_pb2
from holdfast.v1.checkpoint_pb2 import Commit
from holdfast.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub
from tests.support.checkpoint import message, reasons, wire
from tests.support.commit import Floor
from tests.support.outbox import make_destination


async def test_commits_of_many_runs_are_answered_each_by_itself(
    stub: CheckpointServiceStub, floor: Floor
) -> None:
    runs = await floor.lease(30)
    async with wire(stub) as stream:
        answers = await stream.ask(*(message(run, 1, "fetch", events=2) for run in runs))
        assert reasons(answers) == ["COMMITTED"] * 30
        assert {answer.committed.status for answer in answers} == {run_pb2.RUN_STATUS_RUNNING}
        again, late = await stream.ask(message(runs[0], 1, "fetch", events=2), message(runs[1], 7))
        assert reasons([again, late]) == ["COMMITTED", "COMMIT_OUT_OF_ORDER"]
        (end,) = await stream.ask(message(runs[0], 2, end=True))
        assert end.committed.status == run_pb2.RUN_STATUS_SUCCEEDED
        await stream.call.done_writing()
        assert await stream.call.read() is grpc.aio.EOF
        assert await stream.call.code() is grpc.StatusCode.OK
    (outcome,) = await floor.fetch("SELECT result FROM run_outcome")
    assert outcome["result"] == b'{"done": true}'


async def test_a_zombie_is_fenced_and_its_neighbours_are_not(
    stub: CheckpointServiceStub, floor: Floor
) -> None:
    zombie, good = await floor.lease(2)
    await floor.execute("UPDATE run_state SET epoch = epoch + 1 WHERE run_id = $1", zombie.run_id)
    async with wire(stub) as stream:
        assert reasons(await stream.ask(message(zombie, 1, "k"), message(good, 1, "k"))) == [
            "FENCED",
            "COMMITTED",
        ]


async def test_an_effect_is_committed_with_its_step(stub: CheckpointServiceStub, floor: Floor) -> None:
    await make_destination(floor.db, "letters")
    (run,) = await floor.lease()
    commit = message(run, 1, "write")
    commit.effects.add(effect_id=str(uuid.uuid4()), destination="letters", idempotency_key="k", body=b"{}")
    async with wire(stub) as stream:
        assert reasons(await stream.ask(commit)) == ["COMMITTED"]
        second = message(run, 2)
        second.effects.add(
            effect_id=str(uuid.uuid4()), destination="nowhere", idempotency_key="j", body=b"{}"
        )
        assert reasons(await stream.ask(second)) == ["DESTINATION_NOT_FOUND"]
    (effect,) = await floor.fetch("SELECT step FROM effect")
    assert effect["step"] == "write"


def _requeue(commit: Commit, **failure: str) -> None:
    commit.requeue.failure.CopyFrom(run_pb2.Failure(**failure))  # type: ignore[arg-type]


async def test_a_requeue_whose_failure_holds_a_nul_is_stored_all_the_same(
    stub: CheckpointServiceStub, floor: Floor
) -> None:
    (run,) = await floor.lease()
    commit = message(run, 1)
    _requeue(commit, reason="ValueError", message="embedded \0 byte")
    async with wire(stub) as stream:
        (answer,) = await stream.ask(commit)
    assert answer.committed.status == run_pb2.RUN_STATUS_QUEUED


BAD: list[tuple[str, Callable[[Commit], object]]] = [
    ("run_id", lambda c: setattr(c, "run_id", "")),
    ("run_id", lambda c: setattr(c, "run_id", "not-a-uuid")),
    ("run_id", lambda c: setattr(c, "run_id", "urn:" + "a" * 32)),
    ("run_id", lambda c: setattr(c, "run_id", "{" + "0" * 34 + "}")),
    ("epoch", lambda c: setattr(c, "epoch", 0)),
    ("number", lambda c: setattr(c, "number", -1)),
    ("steps[0].key", lambda c: setattr(c.steps[0], "key", "")),
    ("steps[0].key", lambda c: setattr(c.steps[0], "key", "k" * 1025)),
    ("steps[0].key", lambda c: setattr(c.steps[0], "key", "a\0b")),
    ("steps[0].kind", lambda c: setattr(c.steps[0], "kind", 0)),
    ("steps[0].kind", lambda c: setattr(c.steps[0], "kind", 99)),
    ("steps[0].fingerprint", lambda c: setattr(c.steps[0], "fingerprint", b"short")),
    ("steps[0].output", lambda c: setattr(c.steps[0], "output", b"")),
    ("steps[0].output", lambda c: setattr(c.steps[0].failure, "reason", "both")),
    ("steps[0].output", lambda c: setattr(c.steps[0], "intent", True)),
    ("steps[0].attempts", lambda c: setattr(c.steps[0], "attempts", -1)),
    ("steps[0].usage", lambda c: setattr(c.steps[0].usage, "tokens", -5)),
    ("steps[0].usage", lambda c: setattr(c.steps[0].usage, "steps", 2**62)),
    ("usage", lambda c: setattr(c.usage, "context", 2**40)),
    ("events.events[1].sequence", lambda c: setattr(c.events.events[1], "sequence", 9)),
    ("events.events[0].sequence", lambda c: setattr(c.events.events[0], "sequence", 0)),
    ("events.events[0]", lambda c: setattr(c.events.events[0], "run_id", str(uuid.uuid4()))),
    ("events.events[1]", lambda c: setattr(c.events.events[1], "epoch", 77)),
    ("steps[0].interruption", lambda c: c.steps[0].interruption.SetInParent()),
    ("consumed_signal_ids[0]", lambda c: c.consumed_signal_ids.append("")),
    ("consumed_signal_ids[1]", lambda c: c.consumed_signal_ids.extend(["a", "a\0"])),
    ("consumed_signal_ids", lambda c: c.consumed_signal_ids.extend(map(str, range(1001)))),
    ("consumed_signal_ids", lambda c: c.consumed_signal_ids.append("never sent")),
    ("emitted", lambda c: c.emitted.update({"": -1})),
    ("emitted", lambda c: c.emitted.update({"a\0": 1})),
    ("effects[0].effect_id", lambda c: c.effects.add(destination="d", idempotency_key="k", body=b"{}")),
    ("effects[0].body", lambda c: c.effects.add(body=b"{")),
    ("effects[0].body", lambda c: c.effects.add(body=b"[" * 100_000)),
    ("effects[0].destination", lambda c: c.effects.add(destination="d" * 256)),
    ("effects[0].idempotency_key", lambda c: c.effects.add(idempotency_key="")),
    ("effects[0].ordering_key", lambda c: c.effects.add(ordering_key="\0")),
    ("effects[0].not_before", lambda c: setattr(c.effects.add().not_before, "seconds", 10**12)),
    ("end.status", lambda c: setattr(c.end, "status", run_pb2.RUN_STATUS_RUNNING)),
    ("end.status", lambda c: setattr(c.end, "status", run_pb2.RUN_STATUS_DEAD_LETTERED)),
    ("end.status", lambda c: setattr(c.end, "status", 99)),
    ("end.failure", lambda c: setattr(c.end, "status", run_pb2.RUN_STATUS_FAILED)),
    ("end.exhausted", lambda c: setattr(c.end, "status", run_pb2.RUN_STATUS_PARTIAL)),
    ("end.result", lambda c: _end(c, math.nan)),
    ("end.result", lambda c: _end(c, math.inf)),
    ("requeue.failure", lambda c: c.requeue.SetInParent()),
    ("requeue.delay", lambda c: setattr(c.requeue.delay, "seconds", -1)),
    ("requeue.delay", lambda c: setattr(c.requeue.delay, "seconds", 10**9)),
]


def _end(commit: Commit, number: float) -> None:
    commit.end.status = run_pb2.RUN_STATUS_SUCCEEDED
    commit.end.result.number_value = number


async def test_every_malformed_field_is_named_and_nothing_of_the_commit_lands(
    stub: CheckpointServiceStub, floor: Floor
) -> None:
    (run,) = await floor.lease()
    async with wire(stub) as stream:
        for field, spoil in BAD:
            commit = message(run, 1, "fetch", events=2)
            spoil(commit)
            await stream.send(commit)
            (answer,) = await stream.answers()
            assert (answer.refused.reason, field in answer.refused.message) == ("INVALID_FIELD", True), (
                field,
                answer,
            )
            assert not answer.refused.retryable
        assert (await floor.row(run.run_id))["last_commit"] == 0
        assert reasons(await stream.ask(message(run, 1, "fetch", events=2))) == ["COMMITTED"]


async def test_a_run_parks_by_a_commit_that_says_what_wakes_it(
    stub: CheckpointServiceStub, floor: Floor
) -> None:
    (run,) = await floor.lease()
    nothing = message(run, 1)
    nothing.park.SetInParent()
    empty = message(run, 1)
    empty.park.keys.append("")
    backwards = message(run, 1)
    backwards.park.wait_for.seconds = -1
    park = message(run, 1)
    park.park.keys.append("inbox")
    async with wire(stub) as stream:
        for bad in (nothing, empty, backwards):
            assert reasons(await stream.ask(bad)) == ["INVALID_FIELD"]
        assert reasons(await stream.ask(park)) == ["COMMITTED"]
    assert (await floor.row(run.run_id))["status"] == run_pb2.RUN_STATUS_PARKED


async def test_a_message_of_too_many_commits_is_refused_commit_by_commit(
    stub: CheckpointServiceStub, floor: Floor
) -> None:
    (run,) = await floor.lease()
    async with wire(stub) as stream:
        await stream.send(*(message(run, number) for number in range(1, 258)))
        assert set(reasons(await stream.answers(257))) == {"INVALID_FIELD"}


async def test_the_charge_of_a_step_is_at_least_the_step_itself(
    stub: CheckpointServiceStub, floor: Floor
) -> None:
    (run,) = await floor.lease()
    free = message(run, 1, "a", "b")
    for step in free.steps:
        step.ClearField("usage")
    async with wire(stub) as stream:
        await stream.ask(free)
    assert (await floor.row(run.run_id))["steps"] == 2
