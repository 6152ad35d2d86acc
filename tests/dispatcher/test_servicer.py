"""OutboxService over real gRPC: every call, every field, and nobody else's effects."""

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from holdfast.dispatcher.address import AddressPolicy
from holdfast.dispatcher.breaker import judge
from holdfast.dispatcher.servicer import OutboxServicer
from holdfast.kit.db import Database, as_fault
from holdfast.kit.rpc.server import Registration, Server
from holdfast.ledger.domain.delivery import BreakerVote, EffectStatus
from holdfast.ledger.outbox_claim import claim
from holdfast.ledger.outbox_settle import settle
from holdfast.v1 import effect_pb2, run_pb2
from holdfast.v1 import outbox_service_pb2 as pb
from holdfast.v1.outbox_service_pb2_grpc import OutboxServiceStub, add_OutboxServiceServicer_to_server
from tests.support.outbox import came_of, check_places, make_destination, open_session, stage, staged

SOUTH = (("holdfast-tenant", "south"),)
RETRY, DISCARD = pb.EFFECT_ACTION_RETRY, pb.EFFECT_ACTION_DISCARD
ODD_STATUSES: Any = [1, 0, 77]


@pytest.fixture
async def woken() -> list[bool]:
    """A mark for each time the dispatching was woken."""
    return []


@pytest.fixture
async def outbox(db: Database, woken: list[bool]) -> AsyncIterator[Any]:
    """A client's stub, for the tenant `default` unless a call says otherwise."""

    async def resolve(host: str, port: int) -> list[str]:
        assert port
        return {"hooks.example": ["93.184.215.14"], "inside.example": ["10.0.0.1"]}[host]

    servicer = OutboxServicer(db, AddressPolicy(resolve=resolve), lambda: woken.append(True))
    registration = Registration(add_OutboxServiceServicer_to_server, servicer, "holdfast.v1.OutboxService")
    server = Server([registration], "127.0.0.1:0", translate=as_fault)
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield OutboxServiceStub(channel)
    await server.stop(0)


async def refusal(call: Any) -> tuple[str, str, set[str]]:
    """Return code, reason and violated fields of a call that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    status = rpc_status.from_call(error.value)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    return error.value.code().name, info.reason, {violation.field for violation in bad.field_violations}


def asked(**more: Any) -> pb.PutDestinationRequest:
    http = more.pop("http", effect_pb2.HttpEndpoint(url="https://hooks.example/in"))
    return pb.PutDestinationRequest(
        destination=effect_pb2.Destination(name=more.pop("name", "letters"), http=http, **more)
    )


async def test_a_destination_is_made_with_its_defaults_and_changed(outbox: Any, woken: list[bool]) -> None:
    made = (await outbox.PutDestination(asked())).destination
    assert (made.max_concurrent, made.timeout.seconds, made.retry.max_attempts) == (16, 10, 12)
    assert (made.retry.initial_backoff.ToMilliseconds(), made.retry.max_backoff.seconds) == (100, 300)
    assert made.delivery_mode == effect_pb2.DELIVERY_MODE_AT_LEAST_ONCE
    assert (made.breaker_policy.failures, made.breaker_policy.reset_after.seconds) == (5, 30)
    assert made.breaker.state == effect_pb2.BREAKER_STATE_CLOSED
    http = effect_pb2.HttpEndpoint(url="https://hooks.example/b", secret_name="s", headers={"X-A": "b"})
    changed = (
        await outbox.PutDestination(
            asked(
                http=http,
                max_concurrent=3,
                max_per_second=2.5,
                timeout=Duration(nanos=500_000_000),
                retry=run_pb2.RetryPolicy(max_attempts=2, initial_backoff=Duration(seconds=400)),
                delivery_mode=effect_pb2.DELIVERY_MODE_AT_MOST_ONCE,
                breaker_policy=effect_pb2.BreakerPolicy(failures=1, reset_after=Duration(seconds=1)),
            )
        )
    ).destination
    assert changed.http == http
    assert (changed.max_per_second, changed.timeout.nanos) == (2.5, 500_000_000)
    assert changed.retry.max_backoff.seconds == 400
    listed = (await outbox.ListDestinations(pb.ListDestinationsRequest())).destinations
    assert list(listed) == [changed]
    assert len(woken) == 2


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (pb.PutDestinationRequest(), {"destination.name", "destination.http"}),
        (asked(name=""), {"destination.name"}),
        (asked(name="a\0b"), {"destination.name"}),
        (asked(name="ä" * 128), {"destination.name"}),
        (asked(http=effect_pb2.HttpEndpoint()), {"destination.http.url"}),
        (
            asked(http=effect_pb2.HttpEndpoint(url="https://hooks.example/", secret_name="../x")),
            {"destination.http.secret_name"},
        ),
        (asked(max_concurrent=-1), {"destination.max_concurrent"}),
        (asked(max_concurrent=1001), {"destination.max_concurrent"}),
        (asked(max_per_second=-1), {"destination.max_per_second"}),
        (asked(max_per_second=float("nan")), {"destination.max_per_second"}),
        (asked(max_per_second=float("inf")), {"destination.max_per_second"}),
        (asked(timeout=Duration(seconds=61)), {"destination.timeout"}),
        (asked(timeout=Duration()), {"destination.timeout"}),
        (asked(timeout=Duration(seconds=-1)), {"destination.timeout"}),
        (asked(timeout=Duration(seconds=5, nanos=-2_000_000_000)), {"destination.timeout"}),
        (asked(retry=run_pb2.RetryPolicy(max_attempts=-1)), {"destination.retry.max_attempts"}),
        (
            asked(
                retry=run_pb2.RetryPolicy(
                    initial_backoff=Duration(seconds=9), max_backoff=Duration(seconds=8)
                )
            ),
            {"destination.retry.max_backoff"},
        ),
        (
            asked(breaker_policy=effect_pb2.BreakerPolicy(failures=-1)),
            {"destination.breaker_policy.failures"},
        ),
        (
            asked(breaker_policy=effect_pb2.BreakerPolicy(reset_after=Duration(seconds=2**40))),
            {"destination.breaker_policy.reset_after"},
        ),
        (asked(delivery_mode=99), {"destination.delivery_mode"}),
        (asked(max_retries_per_second=-1), {"destination.max_retries_per_second"}),
    ],
)
async def test_each_malformed_field_of_a_destination_is_named(
    outbox: Any, request_: pb.PutDestinationRequest, fields: set[str]
) -> None:
    assert await refusal(outbox.PutDestination(request_)) == ("INVALID_ARGUMENT", "INVALID_FIELD", fields)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer x"},
        {"webhook-signature": "v1,x"},
        {"IDEMPOTENCY-KEY": "x"},
        {"Host": "other"},
        {"Transfer-Encoding": "chunked"},
        {"Cookie": "a=b"},
        {"a b": "c"},
        {"": "c"},
        {"a": "b\r\nc: d"},
        {"a": " b"},
        {"a": "ü"},
        {"a": "b" * 1025},
        {"A": "1", "a": "2"},
        {str(n): "x" for n in range(33)},
    ],
    ids=lambda headers: str(next(iter(headers))),
)
async def test_headers_that_would_break_or_forge_a_request_are_refused(
    outbox: Any, headers: dict[str, str]
) -> None:
    http = effect_pb2.HttpEndpoint(url="https://hooks.example/", headers=headers)
    code, _, fields = await refusal(outbox.PutDestination(asked(http=http)))
    assert code == "INVALID_ARGUMENT"
    assert all(field.startswith("destination.http.headers") for field in fields)


async def test_an_address_the_operator_does_not_allow_is_refused(outbox: Any) -> None:
    http = effect_pb2.HttpEndpoint(url="https://inside.example/")
    code, reason, _ = await refusal(outbox.PutDestination(asked(http=http)))
    assert (code, reason) == ("FAILED_PRECONDITION", "DESTINATION_REFUSED")


async def test_a_destination_that_is_asked_says_where(outbox: Any) -> None:
    def confirming(status_url: str, mode: Any = effect_pb2.DELIVERY_MODE_CONFIRM) -> Any:
        http = effect_pb2.HttpEndpoint(url="https://hooks.example/in", status_url=status_url)
        return outbox.PutDestination(asked(http=http, delivery_mode=mode, max_retries_per_second=2.5))

    field = "destination.http.status_url"
    for wrong in ("", "https://hooks.example/in", "https://{key}.example/in"):
        assert await refusal(confirming(wrong)) == ("INVALID_ARGUMENT", "INVALID_FIELD", {field})
    good = "https://hooks.example/in?key={key}"
    assert await refusal(confirming(good, 1)) == ("INVALID_ARGUMENT", "INVALID_FIELD", {field})
    code, reason, _ = await refusal(confirming("https://inside.example/{key}"))
    assert (code, reason) == ("FAILED_PRECONDITION", "DESTINATION_REFUSED")
    made = (await confirming(good)).destination
    assert (made.http.status_url, made.max_retries_per_second) == (good, 2.5)


async def test_a_grpc_destination_is_made_shown_and_refused_field_by_field(outbox: Any) -> None:
    def put(mode: Any = 0, **more: Any) -> Any:
        given = {"target": "hooks.example:443", "method": "a.B/C", "raw": True, "metadata": {"x-team": "a"}}
        endpoint = effect_pb2.GrpcEndpoint(**{**given, **more})
        wanted = effect_pb2.Destination(name="rpc", grpc=endpoint, delivery_mode=mode)
        return outbox.PutDestination(pb.PutDestinationRequest(destination=wanted))

    made = (await put()).destination
    assert (made.grpc.target, made.grpc.method, made.grpc.raw) == ("hooks.example:443", "a.B/C", True)
    assert (dict(made.grpc.metadata), made.grpc.plaintext, made.HasField("http")) == (
        {"x-team": "a"},
        False,
        False,
    )
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"target": "hooks.example"}, "target"),
        ({"target": "u@hooks.example:443"}, "target"),
        ({"target": "hooks.example:443/x"}, "target"),
        ({"method": "C"}, "method"),
        ({"method": "a.B/C?x"}, "method"),
        ({"metadata": {"X": "1"}}, "metadata[X]"),
        ({"metadata": {"x-bin": "1"}}, "metadata[x-bin]"),
        ({"metadata": {"grpc-timeout": "1"}}, "metadata[grpc-timeout]"),
        ({"metadata": {"authorization": "1"}}, "metadata[authorization]"),
    ]
    for more, field in wrong:
        invalid = ("INVALID_ARGUMENT", "INVALID_FIELD", {f"destination.grpc.{field}"})
        assert await refusal(put(**more)) == invalid
    confirming = put(mode=effect_pb2.DELIVERY_MODE_CONFIRM)
    _, _, fields = await refusal(confirming)
    assert "destination.delivery_mode" in fields
    for target in ("inside.example:443", "hooks.example:99999"):
        code, reason, _ = await refusal(put(target=target))
        assert (code, reason) == ("FAILED_PRECONDITION", "DESTINATION_REFUSED")
    code, reason, _ = await refusal(put(plaintext=True, target="hooks.example:80"))
    assert (code, reason) == ("FAILED_PRECONDITION", "DESTINATION_REFUSED")


async def test_a_nats_destination_is_made_shown_and_refused_field_by_field(outbox: Any) -> None:
    def put(mode: Any = 0, **more: Any) -> Any:
        given = {"server": "hooks.example:443", "subject": "shop.orders", "secret_name": "shop"}
        endpoint = effect_pb2.NatsEndpoint(**{**given, "headers": {"X-Team": "a"}, **more})
        wanted = effect_pb2.Destination(name="nats", nats=endpoint, delivery_mode=mode)
        return outbox.PutDestination(pb.PutDestinationRequest(destination=wanted))

    made = (await put()).destination
    assert (made.nats.server, made.nats.subject) == ("hooks.example:443", "shop.orders")
    assert (made.nats.secret_name, dict(made.nats.headers), made.nats.plaintext) == (
        "shop",
        {"X-Team": "a"},
        False,
    )
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"server": "hooks.example"}, "server"),
        ({"server": "u@hooks.example:443"}, "server"),
        ({"subject": ""}, "subject"),
        ({"subject": "shop.*"}, "subject"),
        ({"subject": "shop..a"}, "subject"),
        ({"subject": "$JS.API.STREAM.DELETE.SHOP"}, "subject"),
        ({"subject": "a b"}, "subject"),
        ({"secret_name": "../x"}, "secret_name"),
        ({"headers": {"Nats-Msg-Id": "1"}}, "headers[Nats-Msg-Id]"),
        ({"headers": {"idempotency-key": "1"}}, "headers[idempotency-key]"),
    ]
    for more, field in wrong:
        invalid = ("INVALID_ARGUMENT", "INVALID_FIELD", {f"destination.nats.{field}"})
        assert await refusal(put(**more)) == invalid
    _, _, fields = await refusal(put(mode=effect_pb2.DELIVERY_MODE_CONFIRM))
    assert "destination.delivery_mode" in fields
    # 4222 is none of the usual ports, and without TLS only private addresses are called.
    for more in ({"server": "inside.example:443"}, {"server": "hooks.example:4222"}, {"plaintext": True}):
        code, reason, _ = await refusal(put(**more))
        assert (code, reason) == ("FAILED_PRECONDITION", "DESTINATION_REFUSED")


async def test_destinations_are_listed_by_name_page_by_page_each_tenant_its_own(
    db: Database, outbox: Any
) -> None:
    for name in ("c", "a", "e", "b", "d"):
        await make_destination(db, name)
    await make_destination(db, "x", tenant="south")
    names, token = [], ""
    for _ in range(3):
        page = await outbox.ListDestinations(pb.ListDestinationsRequest(page_size=2, page_token=token))
        names.append([destination.name for destination in page.destinations])
        token = page.next_page_token
    assert names == [["a", "b"], ["c", "d"], ["e"]]
    assert token == ""
    south = await outbox.ListDestinations(pb.ListDestinationsRequest(), metadata=SOUTH)
    assert [destination.name for destination in south.destinations] == ["x"]


async def test_effects_are_read_listed_and_filtered(db: Database, outbox: Any) -> None:
    for name in ("letters", "faxes"):
        await make_destination(db, name)
    run_id = uuid.uuid4()
    effects = [staged("letters", body=b'{"n":[1,null,"x"]}', run_id=run_id, step="draft#2"), staged("faxes")]
    effects += [staged("letters", ordering_key="a") for _ in range(3)]
    for effect in effects:
        await stage(db, effect)
    ids = [str(effect.effect_id) for effect in effects]
    session_id = await open_session(db)
    taken = {d.effect_id: d for d in (await claim(db, session_id, wanted=10)).deliveries}
    outcomes = [
        came_of(taken[effects[0].effect_id]),
        came_of(taken[effects[1].effect_id], EffectStatus.DEAD_LETTERED),
    ]
    await settle(db, session_id, outcomes, judge)

    async def listed(**more: Any) -> list[str]:
        page = await outbox.ListEffects(pb.ListEffectsRequest(**more))
        assert not any(effect.HasField("body") or effect.history for effect in page.effects)
        return [effect.effect_id for effect in page.effects]

    assert await listed() == ids[::-1]
    assert await listed(statuses=[effect_pb2.EFFECT_STATUS_DELIVERED]) == ids[:1]
    assert await listed(statuses=[effect_pb2.EFFECT_STATUS_DEAD_LETTERED]) == ids[1:2]
    assert await listed(statuses=[effect_pb2.EFFECT_STATUS_SENDING]) == ids[2:3]
    assert await listed(statuses=[effect_pb2.EFFECT_STATUS_PENDING]) == ids[:2:-1]
    assert await listed(statuses=[3, 4]) == [ids[1], ids[0]]
    assert await listed(statuses=[3, 3, 5]) == ids[:1]
    assert await listed(destination="faxes") == [ids[1]]
    assert await listed(destination="faxes", statuses=[1]) == []
    assert await listed(destination="nowhere") == []
    assert await listed(run_id=str(run_id)) == ids[:1]
    assert await listed(run_id=str(run_id), statuses=[1, 2]) == []
    pages, token = [], ""
    for _ in range(3):
        page = await outbox.ListEffects(pb.ListEffectsRequest(page_size=2, page_token=token))
        pages.append([effect.effect_id for effect in page.effects])
        token = page.next_page_token
    assert pages == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]
    assert token == ""
    effect = (await outbox.GetEffect(pb.GetEffectRequest(effect_id=ids[0]))).effect
    assert effect.body.struct_value["n"][2] == "x"
    assert (effect.run_id, effect.step, effect.destination) == (str(run_id), "draft#2", "letters")
    assert effect.status == effect_pb2.EFFECT_STATUS_DELIVERED
    assert [attempt.http_status for attempt in effect.history] == [200]
    assert effect.HasField("deliver_time")
    assert not effect.HasField("next_attempt_time")


async def test_only_the_last_twenty_attempts_are_shown(db: Database, outbox: Any) -> None:
    await make_destination(db, "letters")
    effect = staged("letters")
    await stage(db, effect)
    session_id = await open_session(db)
    for _ in range(23):
        [delivery] = (await claim(db, session_id, wanted=1)).deliveries
        again = came_of(delivery, EffectStatus.PENDING)
        await settle(db, session_id, [again], lambda breaker, *_: breaker)
    view = (await outbox.GetEffect(pb.GetEffectRequest(effect_id=str(effect.effect_id)))).effect
    assert view.attempts == 23
    assert len(view.history) == 20
    assert [a.time.ToDatetime() for a in view.history] == sorted(a.time.ToDatetime() for a in view.history)


async def test_a_dead_letter_is_sent_again_once_and_goes_before_the_rest_of_its_lane(
    db: Database, outbox: Any, woken: list[bool]
) -> None:
    await make_destination(db, "letters")
    effects = [staged("letters", ordering_key="a") for _ in range(4)]
    await stage(db, *effects)
    session_id = await open_session(db)
    [first] = (await claim(db, session_id, wanted=9)).deliveries
    await settle(db, session_id, [came_of(first, EffectStatus.DEAD_LETTERED)], judge)
    [second] = (await claim(db, session_id, wanted=9)).deliveries
    request = pb.RetryEffectRequest(effect_id=str(first.effect_id))
    assert (await outbox.RetryEffect(request)).effect.status == effect_pb2.EFFECT_STATUS_PENDING
    assert (await refusal(outbox.RetryEffect(request)))[1] == "EFFECT_NOT_RETRYABLE"
    await settle(db, session_id, [came_of(second)], judge)
    order = []
    while deliveries := (await claim(db, session_id, wanted=9)).deliveries:
        order += [delivery.effect_id for delivery in deliveries]
        await settle(db, session_id, [came_of(delivery) for delivery in deliveries], judge)
        await check_places(db)
    assert order == [first.effect_id, effects[2].effect_id, effects[3].effect_id]
    assert woken


async def test_a_dead_letter_of_a_lane_out_of_use_is_sent_again(db: Database, outbox: Any) -> None:
    await make_destination(db, "letters")
    effect = staged("letters", ordering_key="a")
    await stage(db, effect)
    session_id = await open_session(db)
    [delivery] = (await claim(db, session_id, wanted=9)).deliveries
    await settle(db, session_id, [came_of(delivery, EffectStatus.DEAD_LETTERED)], judge)
    await outbox.RetryEffect(pb.RetryEffectRequest(effect_id=str(effect.effect_id)))
    await check_places(db)
    [again] = (await claim(db, session_id, wanted=9)).deliveries
    assert (again.effect_id, again.attempts, again.spent) == (effect.effect_id, 1, 0)
    assert await settle(db, session_id, [came_of(delivery)], judge) == set()
    assert await settle(db, session_id, [came_of(again)], judge) == {effect.effect_id}


async def test_effects_are_given_up_wherever_they_wait_but_not_while_they_are_sent(
    db: Database, outbox: Any
) -> None:
    await make_destination(db, "letters")
    head, waiting, last = (staged("letters", ordering_key="a") for _ in range(3))
    loose, sending, dead = staged("letters"), staged("letters"), staged("letters")
    await stage(db, sending, dead)
    session_id = await open_session(db)
    taken = {d.effect_id: d for d in (await claim(db, session_id, wanted=9)).deliveries}
    await settle(db, session_id, [came_of(taken[dead.effect_id], EffectStatus.DEAD_LETTERED)], judge)
    await stage(db, head, waiting, last, loose)

    def discard(effect: Any) -> Any:
        return outbox.DiscardEffect(pb.DiscardEffectRequest(effect_id=str(effect.effect_id), reason="why"))

    for effect in (waiting, head, loose, dead):
        answer = await discard(effect)
        assert answer.effect.status == effect_pb2.EFFECT_STATUS_DISCARDED
        assert (await refusal(discard(effect)))[:2] == ("FAILED_PRECONDITION", "EFFECT_NOT_RETRYABLE")
        await check_places(db)
    assert (await refusal(discard(sending)))[1] == "EFFECT_NOT_RETRYABLE"
    [delivery] = (await claim(db, session_id, wanted=9)).deliveries
    assert delivery.effect_id == last.effect_id
    assert (await refusal(discard(last)))[1] == "EFFECT_NOT_RETRYABLE"
    await settle(db, session_id, [came_of(delivery)], judge)
    assert (await refusal(discard(last)))[1] == "EFFECT_NOT_RETRYABLE"
    await check_places(db)


async def test_a_breaker_is_closed_by_hand(db: Database, outbox: Any) -> None:
    await make_destination(db, "letters")
    async with db.connection() as connection:
        await connection.execute(
            "UPDATE destination_state SET breaker = 2, failures = 5, open_time = now(),"
            " probe_time = now() + interval '1 hour'"
        )
    await stage(db, staged("letters"))
    session_id = await open_session(db)
    assert not (await claim(db, session_id, wanted=1)).deliveries
    answer = await outbox.ResetBreaker(pb.ResetBreakerRequest(destination="letters"))
    assert answer.destination.breaker == effect_pb2.Breaker(state=effect_pb2.BREAKER_STATE_CLOSED)
    assert (await claim(db, session_id, wanted=1)).deliveries


async def test_another_tenants_effects_and_destinations_do_not_exist(db: Database, outbox: Any) -> None:
    await make_destination(db, "letters")
    effect = staged("letters", run_id=uuid.uuid4())
    await stage(db, effect)
    effect_id = str(effect.effect_id)
    for call, request in (
        (outbox.GetEffect, pb.GetEffectRequest(effect_id=effect_id)),
        (outbox.RetryEffect, pb.RetryEffectRequest(effect_id=effect_id)),
        (outbox.DiscardEffect, pb.DiscardEffectRequest(effect_id=effect_id)),
    ):
        assert (await refusal(call(request, metadata=SOUTH)))[:2] == ("NOT_FOUND", "EFFECT_NOT_FOUND")
    reset = outbox.ResetBreaker(pb.ResetBreakerRequest(destination="letters"), metadata=SOUTH)
    assert (await refusal(reset))[:2] == ("NOT_FOUND", "DESTINATION_NOT_FOUND")
    for wanted in (pb.ListEffectsRequest(), pb.ListEffectsRequest(run_id=str(effect.run_id))):
        assert not (await outbox.ListEffects(wanted, metadata=SOUTH)).effects


@pytest.mark.parametrize(
    ("name", "request_", "fields"),
    [
        ("GetEffect", pb.GetEffectRequest(), {"effect_id"}),
        ("GetEffect", pb.GetEffectRequest(effect_id="{" + str(uuid.uuid4()) + "}"), {"effect_id"}),
        ("RetryEffect", pb.RetryEffectRequest(effect_id="x"), {"effect_id"}),
        ("DiscardEffect", pb.DiscardEffectRequest(effect_id="x", reason="a\0"), {"effect_id", "reason"}),
        (
            "DiscardEffect",
            pb.DiscardEffectRequest(effect_id=str(uuid.uuid4()), reason="x" * 1001),
            {"reason"},
        ),
        ("ListEffects", pb.ListEffectsRequest(page_size=-1), {"page_size"}),
        ("ListEffects", pb.ListEffectsRequest(page_size=501), {"page_size"}),
        ("ListEffects", pb.ListEffectsRequest(page_token="%%%"), {"page_token"}),
        (
            "ListEffects",
            pb.ListEffectsRequest(page_token="ZWZmZWN0czo5OTk5OTk5OTk5OTk5OTk5OTk5OTk5"),
            {"page_token"},
        ),
        ("ListEffects", pb.ListEffectsRequest(page_token="ZGVzdGluYXRpb25zOmE"), {"page_token"}),
        ("ListEffects", pb.ListEffectsRequest(statuses=ODD_STATUSES), {"statuses[1]", "statuses[2]"}),
        ("ListEffects", pb.ListEffectsRequest(run_id="x", destination="a\n"), {"run_id", "destination"}),
        (
            "ListDestinations",
            pb.ListDestinationsRequest(page_size=-1, page_token="x"),
            {"page_size", "page_token"},
        ),
        ("ResetBreaker", pb.ResetBreakerRequest(), {"destination"}),
    ],
)
async def test_each_malformed_field_is_named(outbox: Any, name: str, request_: Any, fields: set[str]) -> None:
    call = getattr(outbox, name)
    assert await refusal(call(request_)) == ("INVALID_ARGUMENT", "INVALID_FIELD", fields)


async def acted(outbox: Any, action: pb.EffectAction.ValueType, **more: Any) -> list[Any]:
    """Ask, and return all answers."""
    request = pb.ActOnEffectsRequest(action=action, **more)
    return [answer async for answer in outbox.ActOnEffects(request)]


async def dead(db: Database, count: int, destination: str = "letters", **more: Any) -> list[str]:
    """Stage effects and let each be set aside."""
    effects = [staged(destination, **more) for _ in range(count)]
    await stage(db, *effects)
    session_id = await open_session(db)
    left = count
    while left:
        deliveries = (await claim(db, session_id, wanted=left)).deliveries
        outcomes = [
            came_of(each, EffectStatus.DEAD_LETTERED, vote=BreakerVote.ABSTAINS) for each in deliveries
        ]
        left -= len(await settle(db, session_id, outcomes, judge))
    return [str(effect.effect_id) for effect in effects]


async def test_nothing_is_done_with_many_effects_unless_it_is_said(db: Database, outbox: Any) -> None:
    await make_destination(db, "letters", max_concurrent=1000)
    ids = await dead(db, 3)
    [answer] = await acted(outbox, RETRY, which={"destination": "letters"})
    assert (list(answer.effect_ids), answer.matched, answer.done, answer.finished) == (ids, 3, 0, True)
    page = await outbox.ListEffects(pb.ListEffectsRequest(statuses=[effect_pb2.EFFECT_STATUS_DEAD_LETTERED]))
    assert len(page.effects) == 3


async def test_many_dead_letters_are_sent_again_of_this_tenant_and_destination_alone(
    db: Database, outbox: Any, woken: list[bool]
) -> None:
    for name in ("letters", "others"):
        await make_destination(db, name, max_concurrent=1000)
    await make_destination(db, "letters", tenant="south", max_concurrent=1000)
    ids = await dead(db, 230)
    others = await dead(db, 1, "others") + await dead(db, 1, tenant="south")
    answers = await acted(outbox, RETRY, which={"destination": "letters"}, apply=True)
    assert [(each.matched, each.done, each.skipped) for each in answers] == [
        (100, 100, 0),
        (200, 200, 0),
        (230, 230, 0),
    ]
    assert [effect_id for each in answers for effect_id in each.effect_ids] == ids
    assert [each.finished for each in answers] == [False, False, True]
    assert woken
    async with db.connection() as connection:
        left = await connection.fetch("SELECT effect_id::text FROM effect WHERE status = 4")
    assert {row[0] for row in left} == set(others)
    [again] = await acted(outbox, RETRY, which={"destination": "letters"}, apply=True)
    assert (again.matched, again.done, again.finished) == (0, 0, True)
    await check_places(db)


async def test_dead_letters_of_one_order_that_are_sent_again_together_keep_it(
    db: Database, outbox: Any
) -> None:
    await make_destination(db, "letters", max_concurrent=1000)
    ids = await dead(db, 12, ordering_key="a")
    [answer] = await acted(outbox, RETRY, which={"destination": "letters"}, apply=True)
    assert answer.done == 12
    session_id, sent = await open_session(db), []
    while deliveries := (await claim(db, session_id, wanted=9)).deliveries:
        sent += [str(delivery.effect_id) for delivery in deliveries]
        await settle(db, session_id, [came_of(delivery) for delivery in deliveries], judge)
    assert sent == ids
    await check_places(db)


async def test_many_are_given_up_no_more_than_asked_and_what_waits_only_if_it_is_said(
    db: Database, outbox: Any
) -> None:
    await make_destination(db, "letters", max_concurrent=1000)
    await dead(db, 5)
    await stage(db, staged("letters"))
    which = {"destination": "letters"}
    [answer] = await acted(outbox, DISCARD, which=which, apply=True, limit=2, reason="old")
    assert (answer.done, answer.finished) == (2, True)
    began = time.monotonic()
    answers = await acted(outbox, DISCARD, which=which, apply=True, max_per_second=10.0)
    assert (answers[-1].done, time.monotonic() - began > 0.25) == (3, True)
    pending = {"statuses": [effect_pb2.EFFECT_STATUS_PENDING, effect_pb2.EFFECT_STATUS_DELIVERED]}
    [answer] = await acted(outbox, DISCARD, which=pending, apply=True)
    assert answer.done == 1
    [answer] = await acted(outbox, RETRY, which=pending, apply=True)
    assert (answer.matched, answer.finished) == (0, True)
    async with db.connection() as connection:
        rows = await connection.fetch("SELECT status, discard_reason FROM effect ORDER BY seq")
    assert [tuple(row) for row in rows] == [(5, "old")] * 2 + [(5, "")] * 4


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({}, "which"),
        ({"which": {"destination": "x", "page_size": 3}}, "which"),
        ({"which": {"statuses": ODD_STATUSES}}, "which.statuses[1]"),
        ({"which": {"run_id": "x"}}, "which.run_id"),
        ({"which": {"destination": "x"}, "limit": -1}, "limit"),
        ({"which": {"destination": "x"}, "max_per_second": float("nan")}, "max_per_second"),
        ({"which": {"destination": "x"}, "reason": "x" * 1001}, "reason"),
        ({"which": {"destination": "x"}, "action": 77}, "action"),
    ],
)
async def test_what_is_wrong_with_acting_on_many_is_named(outbox: Any, more: Any, field: str) -> None:
    call = outbox.ActOnEffects(pb.ActOnEffectsRequest(**{"action": pb.EFFECT_ACTION_RETRY, **more}))
    code, reason, fields = await refusal(anext(aiter(call)))
    assert (code, reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert field in fields
