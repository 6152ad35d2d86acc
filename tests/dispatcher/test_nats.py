"""Effects go to a real JetStream stream: once each, in order, and only where the operator lets them."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast.dispatcher import nats_call
from holdfast.dispatcher.address import AddressPolicy
from holdfast.dispatcher.nats_call import url_of
from holdfast.dispatcher.secret import SecretMissingError, Secrets
from holdfast.kit.db import Database
from holdfast.kit.ids import new_id
from holdfast.ledger.destination import Destination
from holdfast.ledger.domain.delivery import Answer, DeliveryMode, EffectStatus
from holdfast.ledger.outbox import StagedEffect
from holdfast.ledger.outbox_claim import Delivery
from tests.dispatcher.test_death import SHORT
from tests.support.dispatching import QUICK, Dispatchers, all_ended, dispatcher_process, until
from tests.support.nats_server import NatsServer, nats_server, needs_nats
from tests.support.outbox import check_places, make_destination, stage, staged, view_of

pytestmark = needs_nats


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A server without a stream."""
    async with nats_server(tmp_path) as one:
        yield one


async def make_stream(server: NatsServer, **login: str) -> None:
    async with server.client(**login) as client:
        await client.jetstream().add_stream(name="SHOP", subjects=["shop.>"], max_msg_size=1000)


async def messages(server: NatsServer) -> list[Any]:
    """Return what the stream holds, in order."""
    async with server.client() as client:
        js = client.jetstream()
        last = (await js.stream_info("SHOP")).state.last_seq
        return [await js.get_msg("SHOP", seq) for seq in range(1, last + 1)]


async def to_stream(db: Database, server: NatsServer, **more: Any) -> None:
    url = url_of(f"127.0.0.1:{server.port}", "shop.orders", plaintext=True)
    given: dict[str, Any] = {"url": url, "retry": QUICK} | more
    await make_destination(db, "nats", **given)


async def why(db: Database, effect: StagedEffect) -> str:
    """Wait for the first failure of an effect, and return its reason."""

    async def has_failed() -> bool:
        return (await view_of(db, effect.effect_id)).last_failure is not None

    await until(has_failed)
    failure = (await view_of(db, effect.effect_id)).last_failure
    return failure.reason if failure else ""


async def test_an_effect_is_a_message_with_its_key_and_those_of_one_order_come_in_it(
    db: Database, server: NatsServer, dispatchers: Dispatchers
) -> None:
    await make_stream(server)
    await to_stream(db, server, headers={"X-Fixed": "yes"})
    bodies = [json.dumps({"n": n}).encode() for n in range(50)]
    await stage(
        db, *(staged("nats", body=body, ordering_key="k", key=f"k {n}") for n, body in enumerate(bodies))
    )
    await dispatchers.start()
    await all_ended(db, 50)
    found = await messages(server)
    assert [message.data for message in found] == bodies
    told = found[3].headers
    assert (told["Nats-Msg-Id"], told["idempotency-key"]) == ("default/k%203", "k%203")
    assert (told["X-Fixed"], told["content-type"]) == ("yes", "application/json")
    await check_places(db)


async def test_a_dispatcher_killed_after_publishing_publishes_nothing_twice(
    db: Database, server: NatsServer
) -> None:
    await make_stream(server)
    await to_stream(db, server)
    await stage(db, *(staged("nats") for _ in range(8)))
    async with dispatcher_process(db.url, crash_at="dispatcher.after_send:3", **SHORT) as first:
        assert await first.ended() == -signal.SIGKILL
    async with dispatcher_process(db.url, **SHORT):
        await all_ended(db, 8)
    found = await messages(server)
    assert len(found) == len({message.headers["Nats-Msg-Id"] for message in found}) == 8


async def test_two_tenants_with_the_same_key_are_two_messages(
    db: Database, server: NatsServer, dispatchers: Dispatchers
) -> None:
    await make_stream(server)
    await to_stream(db, server)
    await to_stream(db, server, tenant="a/b")
    await stage(db, staged("nats", key="order/1"), staged("nats", key="order/1", tenant="a/b"))
    await dispatchers.start()
    await all_ended(db, 2)
    found = [message.headers["Nats-Msg-Id"] for message in await messages(server)]
    assert sorted(found) == ["a%2Fb/order/1", "default/order/1"]


async def test_without_a_stream_an_effect_waits_for_one(
    db: Database, server: NatsServer, dispatchers: Dispatchers
) -> None:
    await to_stream(db, server)
    effect = staged("nats")
    await stage(db, effect)
    await dispatchers.start()
    assert await why(db, effect) == "NO_STREAM"
    await make_stream(server)
    await stage(db, staged("nats"))
    async with db.connection() as connection:
        await connection.execute("UPDATE destination_state SET breaker = 1, failures = 0")
    await all_ended(db, 1)


async def test_a_server_that_was_away_gets_all_of_it(
    db: Database, server: NatsServer, dispatchers: Dispatchers
) -> None:
    await make_stream(server)
    await to_stream(db, server)
    await dispatchers.start()
    await stage(db, staged("nats"))
    await all_ended(db, 1)
    await server.kill()
    effect = staged("nats")
    await stage(db, effect)
    assert await why(db, effect) in ("UNREACHABLE", "CONNECTION_LOST", "TIMEOUT")
    await server.start()
    await all_ended(db, 2)
    assert len(await messages(server)) == 2


async def test_what_the_stream_will_never_take_is_set_aside(
    db: Database, server: NatsServer, dispatchers: Dispatchers
) -> None:
    await make_stream(server)
    await to_stream(db, server)
    large = staged("nats", body=json.dumps("x" * 2000).encode())
    await stage(db, large, staged("nats"))
    await dispatchers.start()
    await all_ended(db, 1)
    await all_ended(db, 1, EffectStatus.DEAD_LETTERED)
    assert await why(db, large) == "UNSENDABLE"


async def test_an_uncertain_publication_is_not_repeated_where_once_is_the_most(
    db: Database, server: NatsServer
) -> None:
    await make_stream(server)
    await to_stream(db, server, mode=DeliveryMode.AT_MOST_ONCE)
    await stage(db, staged("nats"))
    async with dispatcher_process(db.url, crash_at="dispatcher.after_send", **SHORT) as first:
        assert await first.ended() == -signal.SIGKILL
    async with dispatcher_process(db.url, **SHORT):
        await all_ended(db, 1, EffectStatus.DEAD_LETTERED)
    assert len(await messages(server)) == 1


async def test_a_server_whose_address_is_refused_at_the_connection_hears_nothing(
    db: Database, server: NatsServer, dispatchers: Dispatchers
) -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1", "169.254.169.254"]

    await make_stream(server)
    await to_stream(db, server, url=url_of(f"rebound.example:{server.port}", "shop.a", plaintext=True))
    effect = staged("nats")
    await stage(db, effect)
    await dispatchers.start(resolve=resolve)
    assert await why(db, effect) == "ADDRESS_REFUSED"
    assert await messages(server) == []


async def test_credentials_are_shown_to_the_server_they_are_for_and_to_no_other(
    db: Database, dispatchers: Dispatchers, tmp_path: Path
) -> None:
    config = 'authorization: { user: "ada", password: "pass word" }\n'
    async with nats_server(tmp_path, config) as server:
        place = f"127.0.0.1:{server.port}"
        await make_stream(server, user="ada", password="pass word")
        await to_stream(db, server, secret_name="shop")
        await make_destination(
            db, "theirs", url=url_of(place, "shop.b", plaintext=True), secret_name="other", retry=QUICK
        )
        secrets = {
            "HOLDFAST_SECRET_SHOP": f"{place} ada:pass word",
            "HOLDFAST_SECRET_OTHER": "nats.example:4222 a:b",
        }
        good, bad = staged("nats"), staged("theirs")
        await stage(db, good, bad)
        await dispatchers.start(secrets=secrets)
        await all_ended(db, 1)
        assert await why(db, bad) == "SECRET_MISSING"


async def test_who_does_not_show_credentials_publishes_nothing(
    db: Database, dispatchers: Dispatchers, tmp_path: Path
) -> None:
    async with nats_server(tmp_path, 'authorization: { token: "t" }\n') as server:
        await to_stream(db, server)
        effect = staged("nats")
        await stage(db, effect)
        await dispatchers.start()
        assert await why(db, effect) == "UNREACHABLE"


def delivery_to(server: NatsServer, tenant: str, key: str) -> Delivery:
    url = url_of(f"127.0.0.1:{server.port}", "shop.a", plaintext=True)
    return Delivery(
        effect_id=new_id(),
        epoch=1,
        destination=Destination(tenant, "nats", url),
        run_id=None,
        step="",
        idempotency_key=key,
        ordering_key="",
        traceparent="",
        correlation_id="",
        body=b"{}",
        attempts=0,
        spent=0,
        probe=False,
        starts_in_s=0.0,
    )


async def test_connections_beyond_those_kept_are_given_up_when_idle_and_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_call, "_MOST_CONNECTIONS", 2)
    with socket.create_server(("127.0.0.1", 0)) as free:
        monitor = int(free.getsockname()[1])
    async with nats_server(tmp_path, f'http: "127.0.0.1:{monitor}"\n') as server:
        await make_stream(server)
        calls = nats_call.NatsCalls(AddressPolicy(allow_private=True), Secrets({}))

        async def open_ones() -> int:
            async with httpx.AsyncClient() as http:
                told = await http.get(f"http://127.0.0.1:{monitor}/connz")
            return int(told.json()["num_connections"])

        for turn in range(4):
            sent = [
                calls.send(delivery_to(server, f"tenant {n}", f"{turn}/{n}")) for n in range(8) for _ in "ab"
            ]
            results = await asyncio.gather(*sent)
            assert {result.answer for result in results} == {Answer.ACCEPTED}
        await calls.send(delivery_to(server, "tenant 0", "last"))
        await until(lambda: _is(open_ones(), 2))
        await calls.close()
        await until(lambda: _is(open_ones(), 0))
        assert len(await messages(server)) == 33


async def _is(found: Any, wanted: int) -> bool:
    return bool(await found == wanted)


def test_a_signing_secret_is_nobodys_credentials() -> None:
    secrets = Secrets({"HOLDFAST_SECRET_HOOK": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})
    for server in ("nats.example:4222", "", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"):
        with pytest.raises(SecretMissingError):
            secrets.login("default", "hook", server)
