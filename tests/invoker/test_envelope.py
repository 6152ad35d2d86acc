"""What is malformed never passes the door, and each malformed field is named, at every door."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf import json_format, struct_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.v1 import event_service_pb2, run_pb2
from tests.invoker.runner import Runner
from tests.invoker.stand import Invoker, facts_of, fields_of, of_tenant, pb, reason_of

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def nested(depth: int) -> struct_pb2.Struct:
    """Return objects inside one another."""
    outer = inner = struct_pb2.Struct()
    for _ in range(depth - 1):
        inner = inner.fields["a"].struct_value
    inner.fields["a"].number_value = 1
    return outer


def listed(depth: int) -> struct_pb2.Struct:
    """Return lists inside one another, the outermost in an object."""
    outer = struct_pb2.Struct()
    inner = outer.fields["a"]
    for _ in range(depth - 1):
        inner = inner.list_value.values.add()
    inner.number_value = 1
    return outer


def of(value: Any) -> struct_pb2.Struct:
    """Return a payload with a value."""
    payload = struct_pb2.Struct()
    payload["a"] = value
    return payload


def ahead(**time: float) -> Timestamp:
    """Return a time from now."""
    moment = Timestamp()
    moment.FromDatetime(datetime.now(UTC) + timedelta(**time))
    return moment


LONG = "é" * 128  # 256 bytes
DAY = 24 * 3600 * 1000
RUN_ID = "123e4567-e89b-42d3-a456-426614174000"

MALFORMED: list[tuple[str, dict[str, Any]]] = [
    ("run_id", {"run_id": "uuid-v4"}),
    ("run_id", {"run_id": "123e4567e89b42d3a456426614174000"}),
    ("run_id", {"run_id": "{123e4567-e89b-42d3-a456-426614174000}"}),
    ("run_id", {"run_id": "123e4567-e89b-42d3-a456-426614174000\n"}),
    ("run_id", {"run_id": "\0"}),
    ("intent", {"intent": ""}),
    ("intent", {"intent": "a b"}),
    ("intent", {"intent": "a\0"}),
    ("intent", {"intent": "a\n"}),
    ("intent", {"intent": "a@1"}),
    ("intent", {"intent": "é"}),
    ("intent", {"intent": "a" * 256}),
    ("caller.user", {"caller": {"user": LONG}}),
    ("caller.user", {"caller": {"user": "a\0b"}}),
    *((f"budget.{name}", {"budget": {name: -1}}) for name in run_pb2.Budget.DESCRIPTOR.fields_by_name),
    *((f"budget.{name}", {"budget": {name: -(2**63)}}) for name in run_pb2.Budget.DESCRIPTOR.fields_by_name),
    *((f"budget.{name}", {"budget": {name: 2**63 - 1}}) for name in run_pb2.Budget.DESCRIPTOR.fields_by_name),
    ("budget.deadline_ms", {"budget": {"deadline_ms": 31 * DAY + 1}}),
    ("budget.max_steps", {"budget": {"max_steps": 100_001}}),
    ("budget.max_tools", {"budget": {"max_tools": 100_001}}),
    ("budget.max_tokens", {"budget": {"max_tokens": 1_000_000_001}}),
    ("budget.max_context", {"budget": {"max_context": 10_000_001}}),
    ("handoff.budget.max_steps", {"handoff": {"budget": {"max_steps": -1}}}),
    ("idempotency_key", {"idempotency_key": LONG}),
    ("idempotency_key", {"idempotency_key": "a\0"}),
    ("correlation_id", {"correlation_id": LONG}),
    ("correlation_id", {"correlation_id": "\0"}),
    ("traceparent", {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"}),
    ("traceparent", {"traceparent": "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}),
    ("payload", {"payload": of("x" * (1 << 20))}),
    ("payload", {"payload": of("a\0b")}),
    ("payload", {"payload": {"a\0": 1}}),
    ("payload", {"payload": of(float("nan"))}),
    ("payload", {"payload": of(float("-inf"))}),
    ("payload", {"payload": nested(31)}),
    ("payload", {"payload": listed(31)}),
    ("shape", {"shape": 99}),
    ("shape", {"shape": -1}),
    ("ordering_key", {"ordering_key": LONG}),
    ("ordering_key", {"ordering_key": "\0"}),
    ("ordering_key", {"ordering_key": "\x01s"}),
    ("priority", {"priority": -1}),
    ("priority", {"priority": 10}),
    ("priority", {"priority": 2**31 - 1}),
    ("session_id", {"session_id": LONG}),
    ("session_id", {"session_id": "\0"}),
    ("not_before", {"not_before": ahead(days=32)}),
    ("not_before", {"not_before": Timestamp(seconds=2**62)}),
    ("not_before", {"not_before": Timestamp(nanos=-1)}),
    ("labels", {"labels": {str(n): "" for n in range(17)}}),
    ("labels", {"labels": {LONG: ""}}),
    ("labels", {"labels": {"a": LONG}}),
    ("labels", {"labels": {"a": "\0"}}),
    ("agent_version", {"agent_version": LONG}),
    ("agent_version", {"agent_version": "\0"}),
    ("wait", {"wait": Duration(seconds=3601)}),
    ("wait", {"wait": Duration(seconds=-1)}),
    ("wait", {"wait": Duration(seconds=2**62)}),
    ("wait", {"wait": Duration(nanos=-1)}),
    ("wait", {"wait": Duration(nanos=2_000_000_000)}),
    ("parent.run_id", {"parent": {"run_id": "x", "epoch": 1}}),
    ("parent.epoch", {"parent": {"run_id": RUN_ID}}),
    ("parent.epoch", {"parent": {"run_id": RUN_ID, "epoch": -1}}),
    ("parent.step", {"parent": {"run_id": RUN_ID, "epoch": 1, "step": "a" * 1001}}),
    ("parent.on_parent_end", {"parent": {"run_id": RUN_ID, "epoch": 1, "on_parent_end": 9}}),
]


def envelope(**more: Any) -> Any:
    return pb.InvokeRequest(**{"intent": "count", "idempotency_key": "key", **more})


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def test_the_table_has_every_field_of_the_envelope() -> None:
    named = {field.partition(".")[0] for field, _ in MALFORMED}
    assert named == set(pb.InvokeRequest.DESCRIPTOR.fields_by_name)


async def test_every_malformed_field_is_refused_by_name_at_every_door(door: Invoker, worker: Runner) -> None:
    for field, values in MALFORMED:
        request = envelope(**values)
        error = await refusal(door.invoker.Invoke(request))
        assert (error.code(), fields_of(error)) == (INVALID, [field]), values
        talk = door.invoker.Converse(iter([pb.ConverseRequest(start={"invocation": request})]))
        error = await refusal(talk.read())
        assert (error.code(), fields_of(error)) == (INVALID, [f"start.invocation.{field}"]), values
        publish = event_service_pb2.PublishEventsRequest(
            events=[envelope(idempotency_key=f"good {field}"), request]
        )
        good, bad = (await door.events.PublishEvents(publish)).results
        assert good.run_id
        assert not bad.run_id
        assert (bad.refusal.code, bad.refusal.reason) == (3, "INVALID_FIELD"), values
        assert bad.refusal.field == f"events[1].{field}"
    assert not [each for each in worker.told if each.invocation.idempotency_key == "key"]


async def test_all_that_is_wrong_is_named_at_once(door: Invoker) -> None:
    error = await refusal(door.invoke("", run_id="x", priority=11, budget={"max_steps": -1}))
    assert fields_of(error) == ["run_id", "intent", "budget.max_steps", "priority"]


async def test_what_is_just_within_the_limits_is_accepted(door: Invoker, worker: Runner) -> None:
    del worker
    within: list[dict[str, Any]] = [
        {"idempotency_key": "k" * 255, "correlation_id": "é" * 127, "ordering_key": "o" * 255},
        {"budget": {"deadline_ms": 31 * DAY, "max_steps": 100_000, "max_tokens": 1_000_000_000}},
        {"payload": nested(30)},
        {"payload": listed(30)},
        {"payload": of("x" * ((1 << 20) - 100))},
        {"labels": {f"{n}": "v" * 255 for n in range(16)}, "priority": 9},
        {"not_before": ahead(days=30.9)},
        {"not_before": Timestamp(seconds=-60_000_000_000)},
        {"run_id": "123E4567-E89B-42D3-A456-426614174000"},
    ]
    for values in within:
        run = (await door.invoke(**{"idempotency_key": str(uuid.uuid4()), **values})).run
        read = await door.run(run.run_id)
        assert read.payload == run.payload
        assert read.deadline_time == run.deadline_time


async def test_bytes_that_are_no_message_are_refused(door: Invoker) -> None:
    bomb = nested(50).SerializeToString()
    for raw in (b"\xff\xff\xff", b"\x12\x02\xff\xfe", b"\x3a" + _varint(len(bomb)) + bomb):
        async with grpc.aio.insecure_channel(door.address) as opened:
            call: Any = opened.unary_unary("/holdfast.v1.InvokerService/Invoke")
            error = await refusal(call(raw))
        assert error.code() is INVALID


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


async def test_what_nobody_has_checked_is_not_kept(door: Invoker, worker: Runner) -> None:
    request = envelope()
    request.MergeFromString(b"\xa2\x3e" + _varint(500_000) + b"x" * 500_000)  # field 1000, of no contract
    await door.invoker.Invoke(request)
    held = await worker.take()
    assert held.assignment.ByteSize() < 1000


async def test_the_seeds_envelope_is_accepted_unchanged(door: Invoker, worker: Runner) -> None:
    del worker
    run_id = str(uuid.uuid4())
    seed = """{
      "run_id": "RUN_ID",
      "intent": "count",
      "caller": { "tenant": "abc", "user": "u123" },
      "budget": {
        "deadline_ms": 15000,
        "max_steps": 10,
        "max_tools": 5,
        "max_tokens": 12000,
        "max_context": 8000
      },
      "idempotency_key": "ticket:ABC-4521:create",
      "correlation_id": "parent-uuid",
      "payload": { "ticket_id": "ABC-4521" }
    }""".replace("RUN_ID", run_id)
    request = json_format.Parse(seed, pb.InvokeRequest())
    response = await door.invoker.Invoke(request, metadata=of_tenant("abc"))
    told = json_format.MessageToDict(response.run, preserving_proto_field_name=True)
    told["budget"] = {limit: int(number) for limit, number in told["budget"].items()}
    for name, value in json.loads(seed).items():
        assert told[name] == value


async def test_an_unknown_intent_is_not_found_and_the_known_are_named(door: Invoker, worker: Runner) -> None:
    del worker
    error = await refusal(door.invoke("unheard"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert reason_of(error) == "UNKNOWN_INTENT"
    assert facts_of(error)["known"] == "count"
    publish = event_service_pb2.PublishEventsRequest(events=[envelope(), envelope(intent="unheard")])
    good, bad = (await door.events.PublishEvents(publish)).results
    assert good.run_id
    assert bad.refusal.reason == "UNKNOWN_INTENT"


async def test_the_callers_tenant_must_be_that_of_the_call(door: Invoker, worker: Runner) -> None:
    del worker
    error = await refusal(door.invoke(caller={"tenant": "other"}))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert reason_of(error) == "TENANT_MISMATCH"
    request = envelope(caller={"tenant": "default"})
    talk = door.invoker.Converse(
        iter([pb.ConverseRequest(start={"invocation": request})]), metadata=of_tenant("acme")
    )
    assert reason_of(await refusal(talk.read())) == "TENANT_MISMATCH"
    publish = event_service_pb2.PublishEventsRequest(events=[request])
    (result,) = (await door.events.PublishEvents(publish, metadata=of_tenant("acme"))).results
    assert (result.refusal.code, result.refusal.reason) == (7, "TENANT_MISMATCH")


async def test_another_tenants_run_is_not_found_whoever_asks(door: Invoker, worker: Runner) -> None:
    del worker
    run_id = (await door.invoke(idempotency_key="mine")).run.run_id
    other = of_tenant("acme")
    stub = door.invoker
    calls = [
        stub.GetRun(pb.GetRunRequest(run_id=run_id), metadata=other),
        stub.AwaitRun(pb.AwaitRunRequest(run_id=run_id), metadata=other),
        stub.CancelRun(pb.CancelRunRequest(run_id=run_id), metadata=other),
        stub.RetryRun(pb.RetryRunRequest(run_id=run_id), metadata=other),
        stub.WatchRun(pb.WatchRunRequest(run_id=run_id), metadata=other).read(),
        stub.Converse(iter([pb.ConverseRequest(attach={"run_id": run_id})]), metadata=other).read(),
        stub.Converse(iter([pb.ConverseRequest(attach={"idempotency_key": "mine"})]), metadata=other).read(),
    ]
    for call in calls:
        error = await refusal(call)
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")
    assert not (await stub.ListRuns(pb.ListRunsRequest(), metadata=other)).runs
    assert not (await door.run(run_id)).cancel_requested


async def test_a_malformed_run_id_is_refused_by_name_whoever_asks(door: Invoker) -> None:
    stub = door.invoker
    for bad in ("", "x", "\0", "123e4567-e89b-42d3-a456-42661417400g"):
        calls = [
            stub.GetRun(pb.GetRunRequest(run_id=bad)),
            stub.AwaitRun(pb.AwaitRunRequest(run_id=bad)),
            stub.CancelRun(pb.CancelRunRequest(run_id=bad)),
            stub.RetryRun(pb.RetryRunRequest(run_id=bad)),
            stub.WatchRun(pb.WatchRunRequest(run_id=bad)).read(),
        ]
        for call in calls:
            error = await refusal(call)
            assert (error.code(), fields_of(error)) == (INVALID, ["run_id"]), bad


async def test_other_malformed_requests_name_their_field(door: Invoker) -> None:
    stub, run_id = door.invoker, str(uuid.uuid4())
    attach = [
        ("attach.run_id", {}),
        ("attach.run_id", {"run_id": "x"}),
        ("attach.run_id", {"run_id": run_id, "idempotency_key": "both"}),
        ("attach.idempotency_key", {"idempotency_key": LONG}),
        ("attach.after_sequence", {"run_id": run_id, "after_sequence": -1}),
        ("attach.after_epoch", {"run_id": run_id, "after_epoch": -1}),
    ]
    start = {"invocation": envelope(), "on_disconnect": 9}
    cases = [
        ("wait", stub.AwaitRun(pb.AwaitRunRequest(run_id=run_id, wait={"seconds": 3601}))),
        ("wait", stub.AwaitRun(pb.AwaitRunRequest(run_id=run_id, wait={"nanos": -1}))),
        ("reason", stub.CancelRun(pb.CancelRunRequest(run_id=run_id, reason="é" * 501))),
        ("reason", stub.CancelRun(pb.CancelRunRequest(run_id=run_id, reason="\0"))),
        ("budget.max_steps", stub.RetryRun(pb.RetryRunRequest(run_id=run_id, budget={"max_steps": -1}))),
        ("after_sequence", stub.WatchRun(pb.WatchRunRequest(run_id=run_id, after_sequence=-1)).read()),
        ("after_epoch", stub.WatchRun(pb.WatchRunRequest(run_id=run_id, after_epoch=-1)).read()),
        *(
            (field, stub.Converse(iter([pb.ConverseRequest(attach=values)])).read())
            for field, values in attach
        ),
        ("start.on_disconnect", stub.Converse(iter([pb.ConverseRequest(start=start)])).read()),
        ("events", door.events.PublishEvents(event_service_pb2.PublishEventsRequest())),
        (
            "events",
            door.events.PublishEvents(
                event_service_pb2.PublishEventsRequest(events=[pb.InvokeRequest()] * 1001)
            ),
        ),
    ]
    lists: list[tuple[str, dict[str, Any]]] = [
        ("page_size", {"page_size": -1}),
        ("page_size", {"page_size": 501}),
        *(
            ("page_token", {"page_token": token})
            for token in (
                "x",
                "\0",
                "2026-01-01/1",
                "2026-01-01T00:00:00+00:00/x",
                "2026-01-01T00:00:00+00:00/-1",
                f"2026-01-01T00:00:00+00:00/{2**63}",
                "é/1",
            )
        ),
        ("statuses", {"statuses": [0]}),
        ("statuses", {"statuses": [99]}),
        ("intent", {"intent": LONG}),
        ("session_id", {"session_id": "\0"}),
        ("correlation_id", {"correlation_id": LONG}),
        ("labels", {"labels": {str(n): "" for n in range(17)}}),
        ("labels", {"labels": {"\0": ""}}),
        ("create_time_from", {"create_time_from": Timestamp(seconds=2**62)}),
        ("create_time_before", {"create_time_before": Timestamp(nanos=-5)}),
    ]
    cases += [(field, stub.ListRuns(pb.ListRunsRequest(**values))) for field, values in lists]
    for field, call in cases:
        error = await refusal(call)
        assert (error.code(), fields_of(error)) == (INVALID, [field])


async def test_an_event_needs_a_key_of_its_own(door: Invoker, worker: Runner) -> None:
    del worker
    publish = event_service_pb2.PublishEventsRequest(events=[pb.InvokeRequest(intent="count")])
    (result,) = (await door.events.PublishEvents(publish)).results
    assert result.refusal.field == "events[0].idempotency_key"


async def test_a_page_of_runs_always_arrives(door: Invoker, worker: Runner) -> None:
    del worker
    labels = {f"{n:0255}": "v" * 255 for n in range(16)}
    events = [envelope(idempotency_key=f"{n}", labels=labels, session_id="s") for n in range(450)]
    await door.events.PublishEvents(event_service_pb2.PublishEventsRequest(events=events))
    seen, token = [], ""
    while True:
        page = await door.invoker.ListRuns(
            pb.ListRunsRequest(page_size=500, page_token=token, session_id="s")
        )
        seen += [run.idempotency_key for run in page.runs]
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"{n}" for n in reversed(range(450))]
