"""Runners take work and lose it: what a session holds is what the ledger says, however its stream fares."""

import asyncio
import time
import uuid
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf import struct_pb2

from holdfast.v1 import run_pb2, work_service_pb2
from tests.invoker.proxy import postgres_proxy
from tests.invoker.runner import Runner, runner
from tests.invoker.stand import Invoker, ended, fields_of, invoker, pb, reason_of
from tests.kit.until import until


async def test_a_run_goes_straight_to_an_idle_runner_and_its_result_to_who_waits(
    door: Invoker, worker: Runner
) -> None:
    call = asyncio.ensure_future(door.invoke(wait={"seconds": 10}))
    held = await worker.take()
    assert held.assignment.invocation.intent == "count"
    assert held.assignment.invocation.budget.max_steps > 0
    await worker.end(held, "five")
    response = await call
    assert response.run.outcome.result.string_value == "five"
    assert response.run.status == run_pb2.RUN_STATUS_SUCCEEDED


async def test_queued_runs_reach_a_runner_with_its_credit_by_priority_and_age(
    door: Invoker, worker: Runner, commits: str
) -> None:
    await worker.die()
    ids = [(await door.invoke(priority=priority)).run.run_id for priority in (0, 0, 9, 5)]
    async with runner(door.address, commits, slots=2) as late:
        await until(lambda: len(late.held) == 2)
        assert list(late.held) == [ids[2], ids[3]]
        await late.credit(5)
        await until(lambda: len(late.held) == 4)
        assert list(late.held)[2:] == [ids[0], ids[1]]


async def test_a_runner_at_a_second_invoker_takes_what_the_first_has_queued(
    door: Invoker, worker: Runner, commits: str, database_url: str
) -> None:
    del worker  # it has made the intent known
    async with (
        invoker(database_url) as other,
        runner(other.address, commits, intents=["elsewhere"], slots=5) as far,
    ):
        started = asyncio.get_running_loop().time()
        run = (await door.invoke("elsewhere")).run
        held = await far.take(run.run_id)
        assert asyncio.get_running_loop().time() - started < 0.8  # told, not found by the next poll
        assert held.assignment.attempt == 1


async def test_runs_of_an_ordering_key_never_overlap_and_keep_their_order(
    door: Invoker, worker: Runner
) -> None:
    ids = [(await door.invoke(ordering_key="ticket", idempotency_key=f"{n}")).run.run_id for n in range(4)]
    other = (await door.invoke(ordering_key="other")).run.run_id
    seen = []
    await worker.take(other)
    for run_id in ids:
        held = await worker.take(run_id)
        assert [each for each in worker.held if each != other] == [run_id]
        seen.append(held.run_id)
        await worker.end(held)
    assert seen == ids


async def test_a_tenant_at_its_cap_goes_on_at_once_when_one_of_its_runs_ends(
    door: Invoker, worker: Runner, database_url: str
) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await door.invoke("count", idempotency_key="first")
        await connection.execute("UPDATE holdfast.tenant SET max_in_flight = 1")
    finally:
        await connection.close()
    await worker.end(await worker.take())
    for n in range(8):
        await door.invoke(idempotency_key=f"capped-{n}")
    started = asyncio.get_running_loop().time()
    for _ in range(8):
        held = await worker.take()
        assert len(worker.held) == 1
        await worker.end(held)
    assert asyncio.get_running_loop().time() - started < 4  # a poll each would take 8 s


async def test_a_lease_handed_back_is_leased_again_and_no_attempt_is_counted(
    door: Invoker, worker: Runner
) -> None:
    run_id = (await door.invoke()).run.run_id
    held = await worker.take(run_id)
    await worker.hand_back(held)
    again = await worker.take(run_id, epoch=held.epoch + 1)
    assert again.assignment.attempt == 1


async def test_a_broken_stream_frees_the_leases_after_the_grace(
    door: Invoker, worker: Runner, commits: str
) -> None:
    run_id = (await door.invoke()).run.run_id
    held = await worker.take(run_id)
    await worker.break_stream()
    async with runner(door.address, commits, slots=5) as other:
        again = await other.take(run_id)
        assert again.epoch > held.epoch
        assert again.assignment.attempt == 2
    answer = await worker.commit(held)
    assert answer.refused.reason == "FENCED"


async def test_a_session_opened_again_within_the_grace_keeps_its_leases_and_is_told_them(
    door: Invoker, worker: Runner
) -> None:
    run_id = (await door.invoke()).run.run_id
    held = await worker.take(run_id)
    await worker.break_stream()
    worker.told.clear()
    await worker.connect(slots=3)
    await until(lambda: [each.run_id for each in worker.told] == [run_id])
    assert worker.told[0].epoch == held.epoch
    rounds = door.parts.caretaker.loops[0].signal
    await rounds.completed(2)
    await worker.end(held)
    assert await door.status(run_id) == run_pb2.RUN_STATUS_SUCCEEDED


async def test_a_silent_runner_loses_its_leases_though_another_speaks(
    door: Invoker, worker: Runner, commits: str
) -> None:
    run_id = (await door.invoke()).run.run_id
    await worker.take(run_id)
    worker.beating = False
    async with runner(door.address, commits, slots=5) as other:
        held = await other.take(run_id)
        assert held.assignment.attempt == 2
        worker.beating = True
        await until(lambda: worker.code is not None)
        assert worker.code is grpc.StatusCode.FAILED_PRECONDITION  # SESSION_UNKNOWN


async def test_a_silent_runner_is_given_no_work(door: Invoker, worker: Runner, commits: str) -> None:
    worker.beating = False
    silence = door.parts.settings.heartbeat_interval * 2
    session = door.parts.board.sessions()[0]
    clock = asyncio.get_running_loop()
    await until(lambda: clock.time() - session.heard > silence)
    async with runner(door.address, commits, slots=1) as other:
        for n in range(3):
            run_id = (await door.invoke(idempotency_key=f"{n}")).run.run_id
            await other.end(await other.take(run_id))
    assert not worker.told


async def test_a_runner_that_was_silent_is_given_what_waits_as_soon_as_it_is_heard_again(
    door: Invoker, worker: Runner
) -> None:
    await ended(*door.parts.caretaker.loops)  # which would find it sooner or later
    worker.beating = False
    silence = door.parts.settings.heartbeat_interval * 2
    session = door.parts.board.sessions()[0]
    await until(lambda: time.monotonic() - session.heard > silence)
    run_id = (await door.invoke()).run.run_id
    assert await door.status(run_id) == run_pb2.RUN_STATUS_QUEUED
    worker.beating = True
    await worker.take(run_id)


async def test_a_run_whose_runners_all_die_is_dead_lettered_and_can_be_retried(
    database_url: str, commits: str
) -> None:
    async with invoker(database_url, max_attempts=2) as door:
        async with runner(door.address, commits, slots=1) as first:
            run_id = (await door.invoke()).run.run_id
            await first.take(run_id)
        async with runner(door.address, commits, slots=1) as second:
            await second.take(run_id)
        await door.invoker.AwaitRun(pb.AwaitRunRequest(run_id=run_id, wait={"seconds": 10}))
        run = await door.run(run_id)
        assert run.status == run_pb2.RUN_STATUS_DEAD_LETTERED
        assert run.outcome.failure.reason == "RUNNER_LOST"
        await door.invoker.RetryRun(pb.RetryRunRequest(run_id=run_id))
        async with runner(door.address, commits, slots=1) as third:
            await third.end(await third.take(run_id))
        assert await door.status(run_id) == run_pb2.RUN_STATUS_SUCCEEDED


async def test_leases_of_an_admission_whose_answer_was_lost_are_found_again(
    database_url: str, commits: str
) -> None:
    async with (
        postgres_proxy(database_url) as proxy,
        invoker(proxy.url) as door,
        runner(door.address, commits, slots=2) as worker,
    ):
        proxy.lose_commit_after(b"lost-key")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.invoke(idempotency_key="lost-key")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        held = await worker.take()
        again = await door.invoke(idempotency_key="lost-key")
        assert again.reattached
        assert again.run.run_id == held.run_id
        await until(lambda: door.parts.board.sessions()[0].credit == 1)
        await worker.end(held)


async def test_leases_of_a_claim_whose_answer_was_lost_are_found_again(
    database_url: str, commits: str
) -> None:
    async with (
        postgres_proxy(database_url) as proxy,
        invoker(proxy.url) as door,
        runner(door.address, commits) as worker,
    ):
        ids = {(await door.invoke(idempotency_key=f"{n}")).run.run_id for n in range(3)}
        proxy.lose_commit_after(uuid.UUID(worker.runner_id).bytes)
        await worker.credit(5)
        await until(lambda: set(worker.held) == ids)
        assert len(worker.told) == 3
        await until(lambda: door.parts.board.sessions()[0].credit == 2)
        for held in list(worker.held.values()):
            await worker.end(held)


async def test_large_payloads_reach_the_runner_in_messages_that_arrive(
    door: Invoker, worker: Runner, commits: str
) -> None:
    await worker.die()
    payload = struct_pb2.Struct()
    payload["text"] = "x" * 900_000
    ids = {(await door.invoke(payload=payload, idempotency_key=f"{n}")).run.run_id for n in range(6)}
    async with runner(door.address, commits, slots=10) as late:
        await until(lambda: set(late.held) == ids)
        assert late.code is None
        await late.break_stream()
        late.told.clear()
        await late.connect()
        await until(lambda: {each.run_id for each in late.told} == ids)


async def test_work_is_spread_over_runners_alike(door: Invoker, worker: Runner, commits: str) -> None:
    async with runner(door.address, commits, slots=10) as other:
        await asyncio.gather(*(door.invoke(idempotency_key=f"{n}") for n in range(10)))
        await until(lambda: len(worker.held) + len(other.held) == 10)
        assert min(len(worker.held), len(other.held)) >= 3


_HELLO = work_service_pb2.RunnerHello(
    runner_id=str(uuid.uuid4()),
    address="127.0.0.1:1",
    intents=[work_service_pb2.ServedIntent(intent="count", agent_version="1")],
)


def _hello(**more: object) -> work_service_pb2.LeaseRequest:
    hello = work_service_pb2.RunnerHello()
    hello.CopyFrom(_HELLO)
    for name, value in more.items():
        hello.ClearField(name)  # type: ignore[arg-type]
        hello.MergeFrom(work_service_pb2.RunnerHello(**{name: value}))  # type: ignore[arg-type]
    return work_service_pb2.LeaseRequest(hello=hello)


def _served(**more: object) -> list[work_service_pb2.ServedIntent]:
    return [work_service_pb2.ServedIntent(**{"intent": "count", "agent_version": "1", **more})]  # type: ignore[arg-type]


_MALFORMED = [
    (_hello(runner_id="me"), "hello.runner_id"),
    (_hello(address="a" * 256), "hello.address"),
    (_hello(intents=[]), "hello.intents"),
    (_hello(intents=_served(intent="")), "hello.intents[0].intent"),
    (_hello(intents=_served(intent="a@b")), "hello.intents[0].intent"),
    (_hello(intents=_served(agent_version="")), "hello.intents[0].agent_version"),
    (_hello(intents=_served(agent_version="\0")), "hello.intents[0].agent_version"),
    (_hello(intents=_served(compatible_versions=["1"] * 101)), "hello.intents[0].compatible_versions"),
    (_hello(intents=_served(max_concurrent=-1)), "hello.intents[0].max_concurrent"),
]


async def test_a_malformed_hello_is_refused_naming_the_field(door: Invoker) -> None:
    for request, field in _MALFORMED:
        call = door.work.Lease(iter([request]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, field
        assert field in fields_of(caught.value)


_CREDIT = work_service_pb2.RunnerCredit


_OUT_OF_ORDER = [
    ([work_service_pb2.LeaseRequest(credit=_CREDIT(slots=1))], "STREAM_PROTOCOL"),
    ([work_service_pb2.LeaseRequest()], "STREAM_PROTOCOL"),
    ([_hello(), _hello()], "STREAM_PROTOCOL"),
    ([_hello(), work_service_pb2.LeaseRequest()], "STREAM_PROTOCOL"),
    ([_hello(), work_service_pb2.LeaseRequest(credit=_CREDIT(slots=-1))], "STREAM_PROTOCOL"),
    ([_hello(), work_service_pb2.LeaseRequest(credit=_CREDIT(slots=2_000_000_000))], "STREAM_PROTOCOL"),
    ([_hello(), work_service_pb2.LeaseRequest(credit=_CREDIT(ended_run_ids=["x"]))], "INVALID_FIELD"),
    (
        [
            _hello(),
            work_service_pb2.LeaseRequest(
                hand_back=work_service_pb2.RunnerHandBack(
                    leases=[work_service_pb2.LeaseRef(run_id="x", epoch=1)]
                )
            ),
        ],
        "INVALID_FIELD",
    ),
]


async def test_words_out_of_order_end_the_lease_stream_with_a_reason(door: Invoker) -> None:
    for messages, reason in _OUT_OF_ORDER:
        call = door.work.Lease()
        for message in messages:
            await call.write(message)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _to_the_end(call)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert reason_of(caught.value) == reason, messages


async def _to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass
