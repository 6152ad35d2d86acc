"""Calls say what they mean, are repeated only where that is safe, and give up in time."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from holdfast.client import (
    Budget,
    Client,
    Destination,
    Invocation,
    Retries,
    RunStatus,
    RunUnsuccessful,
    errors,
)
from holdfast.kit import errors as faults
from holdfast.v1 import invoker_service_pb2 as pb
from holdfast.v1 import run_pb2, session_pb2
from tests.client.contract_server import RUN_ID, ContractServer, invoked, run
from tests.kit.until import until


async def test_an_invocation_carries_the_envelope_the_tenant_and_a_key(
    server: ContractServer, client: Client
) -> None:
    server.invoker.script["Invoke"] = lambda *_: invoked()
    handle = await client.invoke(
        "greet",
        {"name": "Ada", "n": 3, "deep": [{"x": None}]},
        budget=Budget(max_steps=5),
        labels={"team": "a"},
        not_before=datetime(2030, 1, 1, tzinfo=UTC),
        wait=timedelta(seconds=1.5),
    )
    request = server.invoker.asked[0]
    assert (handle.run_id, handle.status) == (RUN_ID, RunStatus.QUEUED)
    assert request.intent == "greet"
    assert request.payload["name"] == "Ada"
    assert request.budget.max_steps == 5
    assert request.idempotency_key
    assert request.wait.ToMilliseconds() == 1500
    assert server.invoker.tenants == ["acme"]


async def test_another_token_is_shown_from_the_next_call_on(server: ContractServer) -> None:
    shown: list[str] = []
    may_answer = asyncio.Event()

    async def answer(_: Any, context: Any) -> Any:
        shown.append(dict(context.invocation_metadata())["authorization"])
        if len(shown) == 1:
            await may_answer.wait()
        return invoked()

    server.invoker.script["Invoke"] = answer
    async with Client(server.address, token="one") as client:
        first = asyncio.create_task(client.invoke("greet"))
        await until(lambda: len(shown) == 1)
        client.show_token("two")
        await client.invoke("greet")
        may_answer.set()
        await first
        with pytest.raises(ValueError, match="malformed"):
            client.show_token("two words")
    assert shown == ["Bearer one", "Bearer two"]


async def test_a_call_is_repeated_with_the_same_key_until_the_ledger_is_back(
    server: ContractServer, client: Client
) -> None:
    def answer(*_: Any) -> Any:
        if len(server.invoker.asked) < 3:
            raise faults.LedgerUnavailable("away")
        return invoked()

    server.invoker.script["Invoke"] = answer
    await client.invoke("greet")
    keys = {request.idempotency_key for request in server.invoker.asked}
    assert len(server.invoker.asked) == 3
    assert len(keys) == 1


async def test_repeating_ends_after_the_attempts_with_the_server_s_own_error(
    server: ContractServer, client: Client
) -> None:
    def answer(*_: Any) -> Any:
        raise faults.LedgerUnavailable("away")

    server.invoker.script["GetRun"] = answer
    with pytest.raises(errors.LedgerUnavailable, match="away"):
        await client.get_run(RUN_ID)
    assert len(server.invoker.asked) == 5


async def test_a_server_s_retry_time_beyond_our_patience_is_raised_at_once(
    server: ContractServer, client: Client
) -> None:
    def answer(*_: Any) -> Any:
        raise faults.QueueFull("full", retry_after=60)

    server.invoker.script["Invoke"] = answer
    with pytest.raises(errors.QueueFull) as caught:
        await client.invoke("greet")
    assert caught.value.retry_after == 60
    assert len(server.invoker.asked) == 1


async def test_what_a_repetition_cannot_help_is_not_repeated(server: ContractServer, client: Client) -> None:
    def answer(*_: Any) -> Any:
        raise faults.UnknownIntent("no such intent", facts={"known": "a, b"})

    server.invoker.script["Invoke"] = answer
    with pytest.raises(errors.UnknownIntent) as caught:
        await client.invoke("nope")
    assert caught.value.facts == {"known": "a, b"}
    assert len(server.invoker.asked) == 1


async def test_retrying_a_run_is_never_repeated(server: ContractServer, client: Client) -> None:
    def answer(*_: Any) -> Any:
        raise faults.LedgerUnavailable("away")

    server.invoker.script["RetryRun"] = answer
    with pytest.raises(errors.LedgerUnavailable):
        await client.retry(RUN_ID)
    assert len(server.invoker.asked) == 1


async def test_no_server_is_an_unavailable_without_a_reason() -> None:
    async with Client("127.0.0.1:9", retries=Retries(attempts=2, first_pause=0.01)) as client:
        with pytest.raises(errors.Unavailable) as caught:
            await client.get_run(RUN_ID)
    assert caught.value.reason == ""


async def test_pages_are_walked_to_the_end(server: ContractServer, client: Client) -> None:
    def answer(request: Any, _: Any) -> Any:
        if request.page_token == "":
            return pb.ListRunsResponse(runs=[run(), run()], next_page_token="two")
        return pb.ListRunsResponse(runs=[run(intent=request.page_token)])

    server.invoker.script["ListRuns"] = answer
    runs = [one.intent async for one in client.list_runs(statuses=[RunStatus.QUEUED])]
    assert runs == ["greet", "greet", "two"]


async def test_a_result_is_what_the_agent_returned_and_anything_else_is_raised(
    server: ContractServer, client: Client
) -> None:
    outcome = run_pb2.Outcome(status=run_pb2.RUN_STATUS_SUCCEEDED)
    outcome.result.struct_value.update({"n": 3, "x": 0.5, "list": [1, None]})
    done = run(status=run_pb2.RUN_STATUS_SUCCEEDED, outcome=outcome)
    server.invoker.script["Invoke"] = lambda *_: invoked()
    server.invoker.script["AwaitRun"] = lambda *_: pb.AwaitRunResponse(run=done)
    assert await (await client.invoke("greet")).result() == {"n": 3, "x": 0.5, "list": [1, None]}
    failed = run(status=run_pb2.RUN_STATUS_FAILED)
    server.invoker.script["AwaitRun"] = lambda *_: pb.AwaitRunResponse(run=failed)
    with pytest.raises(RunUnsuccessful, match="FAILED"):
        await (await client.invoke("greet")).result()


async def test_waiting_for_an_end_has_its_own_patience(server: ContractServer, client: Client) -> None:
    server.invoker.script["AwaitRun"] = lambda *_: pb.AwaitRunResponse(run=run())
    with pytest.raises(TimeoutError, match="QUEUED"):
        await client.await_run(RUN_ID, patience=0.05)


async def test_events_go_out_in_groups_and_each_gets_its_answer(
    server: ContractServer, client: Client
) -> None:
    events: list[Any] = [Invocation("greet", {"n": n}, idempotency_key=f"k{n}") for n in range(1001)]
    events[7] = {"intent": "greet", "idempotency_key": "k7"}
    answers = await client.publish(events)
    assert server.events.groups == [1000, 1]
    assert len(answers) == 1001
    assert answers[0].run_id == RUN_ID
    refusal = answers[7].refusal
    assert isinstance(refusal, errors.InvalidField)
    assert refusal.violations[0].field == "payload"


async def test_an_envelope_with_a_field_that_is_none_is_refused_before_it_is_sent(client: Client) -> None:
    with pytest.raises(ValueError, match="intnet"):
        await client.publish([{"intnet": "greet"}])


@pytest.mark.parametrize("scheme", ["grpc", "grpcs"])
@pytest.mark.parametrize("raw", ["", "?raw"])
async def test_a_grpc_destination_comes_back_as_it_was_given(client: Client, scheme: str, raw: str) -> None:
    url = f"{scheme}://crm.example:443/crm.v1.Crm/Tell{raw}"
    given = Destination("crm", url, headers={"x": "1"}, max_retries_per_second=3.0)
    assert await client.outbox.put_destination(given) == given
    with pytest.raises(ValueError, match="secret_name"):
        await client.outbox.put_destination(Destination("crm", url, secret_name="s"))


@pytest.mark.parametrize("scheme", ["nats", "natss"])
async def test_a_nats_destination_comes_back_as_it_was_given(client: Client, scheme: str) -> None:
    url = f"{scheme}://nats.example:4222/shop.orders"
    given = Destination("shop", url, headers={"x": "1"}, secret_name="shop")
    assert await client.outbox.put_destination(given) == given
    with pytest.raises(ValueError, match="status_url"):
        await client.outbox.put_destination(Destination("shop", url, status_url="https://x/{key}"))


async def test_a_destination_comes_back_as_it_was_given(client: Client) -> None:
    given = Destination(
        "crm", "https://crm.example/in", headers={"x": "1"}, timeout=2.5, max_attempts=3, breaker_failures=2
    )
    assert await client.outbox.put_destination(given) == given


async def test_effects_are_listed_over_pages(client: Client) -> None:
    effects = [(one.effect_id, one.status.name) async for one in client.outbox.list_effects()]
    assert effects == [("e1", "DEAD_LETTERED"), ("e2", "DEAD_LETTERED")]


async def test_a_client_without_the_dispatcher_s_address_says_so() -> None:
    async with Client("127.0.0.1:9") as client:
        with pytest.raises(ValueError, match="dispatcher"):
            await client.outbox.get_effect("e")


async def test_a_session_is_read_and_forgotten_once(server: ContractServer, client: Client) -> None:
    session = session_pb2.Session(session_id="s", version=3, run_id=RUN_ID)
    session.state.struct_value.fields["n"].number_value = 2
    session.update_time.FromDatetime(datetime(2030, 1, 1, tzinfo=UTC))
    server.invoker.script["GetSession"] = lambda *_: pb.GetSessionResponse(session=session)
    found = await client.sessions.get("s")
    assert (found.session_id, found.state, found.version, found.run_id) == ("s", {"n": 2}, 3, RUN_ID)
    assert (found.create_time, found.update_time) == (None, datetime(2030, 1, 1, tzinfo=UTC))
    calls = 0

    def away(*_: Any) -> Any:
        nonlocal calls
        calls += 1
        raise faults.LedgerUnavailable("It is away.")

    server.invoker.script["DeleteSession"] = away
    with pytest.raises(errors.LedgerUnavailable):
        await client.sessions.delete("s")
    assert calls == 1


async def test_an_invocation_says_how_it_may_be_handed_off(server: ContractServer, client: Client) -> None:
    server.invoker.script["Invoke"] = lambda *_: invoked()
    await client.invoke("greet", handoff=Budget(deadline_ms=60_000))
    await client.invoke("greet")
    first, second = server.invoker.asked
    assert first.handoff.budget.deadline_ms == 60_000
    assert not second.HasField("handoff")


async def test_a_signal_is_repeated_under_its_id_whatever_breaks(
    server: ContractServer, client: Client
) -> None:
    def answer(request: Any, _: Any) -> Any:
        if len(server.invoker.asked) < 3:
            raise faults.LedgerUnavailable("away")
        return pb.SignalRunResponse(signal_id=request.signal_id)

    server.invoker.script["SignalRun"] = answer
    signal_id = await client.signal(RUN_ID, "decision", {"approved": [True, None, 1.5]})
    asked = server.invoker.asked
    assert {each.signal_id for each in asked} == {signal_id}
    assert len(asked) == 3
    assert (asked[0].run_id, asked[0].key) == (RUN_ID, "decision")
    assert asked[0].payload.struct_value["approved"][2] == 1.5
    assert await client.signal(RUN_ID, "input", signal_id="mine") == "mine"


async def test_a_handle_signals_and_interrupts_its_run(server: ContractServer, client: Client) -> None:
    server.invoker.script["Invoke"] = lambda *_: invoked()
    server.invoker.script["SignalRun"] = lambda asked, _: pb.SignalRunResponse(signal_id=asked.signal_id)
    server.invoker.script["InterruptRun"] = lambda asked, _: pb.InterruptRunResponse(
        signal_id=asked.signal_id
    )
    handle = await client.invoke("greet")
    assert await handle.signal("input", "hello", signal_id="a") == "a"
    assert await handle.interrupt("stop", signal_id="b") == "b"
    _, signal, interrupt = server.invoker.asked
    assert (signal.run_id, signal.key, signal.payload.string_value) == (RUN_ID, "input", "hello")
    assert (interrupt.run_id, interrupt.payload.string_value) == (RUN_ID, "stop")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (faults.RunEnded("it has", facts={"status": "SUCCEEDED"}), errors.RunEnded),
        (faults.MailboxFull("it is", facts={"waiting": "1000"}), errors.MailboxFull),
        (faults.InputRejected("none"), errors.InputRejected),
        (faults.SignalIdReused("it was"), errors.SignalIdReused),
    ],
)
async def test_a_signal_that_is_refused_is_not_repeated(
    server: ContractServer, client: Client, fault: faults.Fault, expected: type[errors.HoldfastError]
) -> None:
    def answer(*_: Any) -> Any:
        raise fault

    server.invoker.script["SignalRun"] = answer
    with pytest.raises(expected) as caught:
        await client.signal(RUN_ID, "input", "hello")
    assert caught.value.facts == fault.facts
    assert len(server.invoker.asked) == 1


async def test_a_client_that_is_too_fast_comes_again_when_told_and_not_before(
    server: ContractServer, client: Client
) -> None:
    times: list[float] = []

    def answer(*_: Any) -> Any:
        times.append(asyncio.get_running_loop().time())
        if len(times) < 3:
            raise faults.RateLimited("fast", retry_after=0.2, quota="rate")
        return invoked()

    server.invoker.script["Invoke"] = answer
    await client.invoke("greet")
    assert len(times) == 3
    assert all(later - sooner >= 0.2 for sooner, later in pairwise(times))


async def test_who_is_always_too_fast_is_tried_a_bounded_number_of_times(
    server: ContractServer, client: Client
) -> None:
    def answer(*_: Any) -> Any:
        raise faults.RateLimited("fast", retry_after=0.01, quota="rate")

    server.invoker.script["Invoke"] = answer
    with pytest.raises(errors.RateLimited) as caught:
        await client.invoke("greet")
    assert caught.value.quota == "rate"
    assert len(server.invoker.asked) == 5  # as the fixture's `Retries` say


async def test_a_caller_s_own_deadline_cuts_the_wait_short(server: ContractServer, client: Client) -> None:
    def answer(*_: Any) -> Any:
        raise faults.RateLimited("fast", retry_after=3)

    server.invoker.script["Invoke"] = answer
    begin = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await client.invoke("greet")
    assert asyncio.get_running_loop().time() - begin < 1
    assert len(server.invoker.asked) == 1


def test_pauses_are_spread_above_what_the_server_says() -> None:
    pauses = {Retries().pause_after(3, errors.RateLimited("fast", code="", retry_after=2)) for _ in range(50)}
    assert len(pauses) > 40
    assert all(2 <= pause <= 2.4 for pause in pauses)


@pytest.mark.parametrize("kind", [errors.QueueFull, errors.TooManyCalls])
def test_a_crowd_that_is_told_one_time_comes_spread_over_as_long_again(
    kind: type[errors.HoldfastError],
) -> None:
    pauses = [Retries().pause_after(1, kind("full", code="", retry_after=2)) for _ in range(200)]
    assert all(2 <= pause <= 4 for pause in pauses)
    assert min(pauses) < 2.5
    assert max(pauses) > 3.5
