"""A webhook is one run however often it comes, and what is not as it must be leaves no trace."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.payload import AesSiv, Sealing
from holdfast.v1.invoker_service_pb2 import InvokeRequest
from tests.edge.conftest import DECLARED, Edge, edge
from tests.invoker.stand import Invoker
from tests.support.sending import github, standard, stripe

BODY = b'{"n": 1}'
STRIPE_BODY = b'{"id": "evt_1", "type": "invoice.paid"}'


async def test_a_delivery_repeated_by_each_kind_of_sender_is_one_run(hooks: Edge) -> None:
    for attempt in range(2):
        answers = [
            await hooks.post("/standard", BODY, **standard(BODY)),
            await hooks.post("/gh", BODY, **github(BODY)),
            await hooks.post("/stripe", STRIPE_BODY, **stripe(STRIPE_BODY)),
            await hooks.post("/open", BODY, idempotency_key="k"),
        ]
        assert [answer.status_code for answer in answers] == [202] * 4
        told = [answer.json() for answer in answers]
        assert [(one["accepted"], one["duplicates"]) for one in told] == [(1 - attempt, attempt)] * 4
    assert await hooks.runs() == ["standard/msg_1", "gh/d-1", "stripe/evt_1", "open/k"]


async def test_an_edge_with_the_keys_seals_what_it_hands_on_and_knows_it_again(
    door: Invoker, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"one {base64.b64encode(b'k' * 32).decode()}\n")
    async with edge(door, payload_keys_file=keys) as sealing:
        for duplicates in range(2):
            answer = await sealing.post("/open", b'{"word":"quicksilver"}', idempotency_key="k")
            assert answer.json()["duplicates"] == duplicates
        (envelope,) = await sealing.runs("envelope")
        assert b"quicksilver" not in envelope
        payload = InvokeRequest.FromString(envelope)
        opened = Sealing(AesSiv.from_file(keys)).opened(payload).payload
        assert dict(opened) == {"word": "quicksilver"}


async def test_deliveries_of_one_event_at_once_are_one_run(hooks: Edge) -> None:
    told = github(BODY)
    answers = await asyncio.gather(*(hooks.post("/gh", BODY, **told) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert sum(answer.json()["accepted"] for answer in answers) == 1
    assert len({tuple(answer.json()["run_ids"]) for answer in answers}) == 1
    assert await hooks.runs() == ["gh/d-1"]


async def test_a_sender_that_fills_in_more_when_it_repeats_is_told_that_it_is_known(hooks: Edge) -> None:
    again = STRIPE_BODY.replace(b"}", b', "pending_webhooks": 2}')
    await hooks.post("/stripe", STRIPE_BODY, **stripe(STRIPE_BODY))
    answer = await hooks.post("/stripe", again, **stripe(again))
    assert (answer.status_code, answer.json()["duplicates"]) == (202, 1)
    assert await hooks.runs() == ["stripe/evt_1"]
    assert await hooks.aside() == []


async def test_a_run_goes_on_in_the_trace_of_its_event(hooks: Edge) -> None:
    header, attribute = (f"00-{number:032x}-{number:016x}-01" for number in (1, 2))
    whole = {"specversion": "1.0", "id": "7", "source": "shop", "type": "sold", "data": {}}
    own = {"id": "8", "traceparent": attribute}
    for event, traceparent in (({}, header), (own, header), ({"id": "9"}, "?")):
        told = {"content_type": "application/cloudevents+json", "traceparent": traceparent}
        answer = await hooks.post("/ce", json.dumps(whole | event).encode(), **told)
        assert answer.status_code == 202
    traces = [InvokeRequest.FromString(one).traceparent for one in await hooks.runs("envelope")]
    assert traces == [header, attribute, ""]


REFUSED = {
    "a wrong signature": (401, "/gh", BODY, github(b"other")),
    "no signature": (401, "/gh", BODY, {"x_github_delivery": "d"}),
    "somebody's signature": (401, "/stripe", STRIPE_BODY, stripe(STRIPE_BODY, secret="theirs")),
    "a stale timestamp": (401, "/standard", BODY, standard(BODY, at=1_600_000_000)),
    "a timestamp to come": (401, "/stripe", STRIPE_BODY, stripe(STRIPE_BODY, at=9_999_999_999)),
    "another type": (415, "/gh", BODY, github(BODY) | {"content_type": "application/x-www-form-urlencoded"}),
    "no type": (415, "/gh", BODY, github(BODY) | {"content_type": ""}),
    "a compressed body": (415, "/gh", BODY, github(BODY) | {"content_encoding": "gzip"}),
    "a cloud event for who takes none": (
        415,
        "/open",
        BODY,
        {"content_type": "application/cloudevents+json", "idempotency_key": "k"},
    ),
    "what is no JSON": (400, "/gh", b'{"n": ', github(b'{"n": ')),
    "what is no text": (400, "/open", b'{"n": "\xff"}', {"idempotency_key": "k"}),
    "what is no object": (400, "/gh", b"[1]", github(b"[1]")),
    "no number": (400, "/gh", b'{"n": NaN}', github(b'{"n": NaN}')),
    "an endless number": (400, "/gh", b'{"n": 1e999}', github(b'{"n": 1e999}')),
    "half a character": (400, "/gh", b'{"n": "\\ud800"}', github(b'{"n": "\\ud800"}')),
    "a NUL": (400, "/gh", b'{"n": "\\u0000"}', github(b'{"n": "\\u0000"}')),
    "depth": (400, "/open", b'{"n":' * 40 + b"1" + b"}" * 40, {"idempotency_key": "k"}),
    "a bottomless list": (400, "/open", b"[" * 100_000, {"idempotency_key": "k"}),
    "no id": (400, "/open", BODY, {}),
    "no id of GitHub": (400, "/gh", BODY, {k: v for k, v in github(BODY).items() if "delivery" not in k}),
    "an unknown path": (404, "/nobody", BODY, {}),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_not_as_it_must_be_gets_its_status_and_leaves_no_trace(hooks: Edge, what: str) -> None:
    status, path, body, headers = REFUSED[what]
    answer = await hooks.post(path, body, **headers)
    assert (answer.status_code, set(answer.json())) in ((status, {"error"}), (status, {"error", "field"}))
    assert await hooks.runs() == []
    assert await hooks.aside() == []


async def test_what_is_too_large_is_refused_whether_or_not_it_says_so(door: Invoker) -> None:
    declared = {"small": {"path": "/small", "verify": "none", "max_bytes": 1000}, "open": DECLARED["open"]}
    large = json.dumps({"x": "y" * 2000}).encode()

    async def parts() -> AsyncIterator[bytes]:  # chunked: nothing says how much comes
        for start in range(0, len(large), 500):
            yield large[start : start + 500]

    async with edge(door, declared) as hooks:
        assert (await hooks.post("/small", large, idempotency_key="k")).status_code == 413
        told = {"content-type": "application/json", "idempotency-key": "k"}
        assert (await hooks.http.post("/small", content=parts(), headers=told)).status_code == 413
        beyond = json.dumps({"x": "é" * 600_000}, ensure_ascii=False).encode()
        assert (await hooks.post("/open", beyond, idempotency_key="k")).status_code == 413
        assert await hooks.runs() == []
        assert (await hooks.post("/small", BODY, idempotency_key="k")).status_code == 202


async def spoken(hooks: Edge, *lines: bytes) -> bytes:
    """Say something on a connection, no more, and return all that is answered until it is closed."""
    host, _, port = hooks.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for line in lines:
        writer.write(line)
        await writer.drain()
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def test_a_body_that_does_not_come_is_waited_for_so_long(door: Invoker) -> None:
    declared = {"slow": {"path": "/slow", "verify": "none", "timeout": 0.3}}
    async with edge(door, declared) as hooks:
        head = (
            b"POST /slow HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n"
        )
        told = await spoken(hooks, head, b'{"n":')
        assert told.startswith(b"HTTP/1.1 408 ")
        assert await hooks.runs() == []


async def test_headers_that_do_not_come_end_the_connection(door: Invoker) -> None:
    async with edge(door, header_timeout=0.3) as hooks:
        assert await spoken(hooks, b"POST /open HTTP/1.1\r\nhost") == b""
        assert await spoken(hooks) == b""
        whole = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
        told = await spoken(hooks, whole, b"POST /open HTT")
        assert told.startswith(b"HTTP/1.1 200 ")


async def test_requests_beyond_those_at_once_are_told_to_come_again(door: Invoker) -> None:
    async with edge(door, requests_at_once=1) as hooks:
        host, _, port = hooks.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = b"POST /open HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nidempotency-key: a\r\n"
        writer.write(head + b"content-length: 8\r\nexpect: 100-continue\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 100 ")  # it is in
        busy = await hooks.post("/open", BODY, idempotency_key="b")
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
        writer.write(BODY)
        await reader.readline()
        assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")
        writer.close()
        assert (await hooks.post("/open", BODY, idempotency_key="b")).status_code == 202
        assert await hooks.runs() == ["open/a", "open/b"]


async def test_an_event_that_nobody_serves_is_kept_and_its_sender_done_with_it(door: Invoker) -> None:
    declared = {"gh": DECLARED["gh"] | {"intent": "not.yet"}}
    async with edge(door, declared) as hooks:
        for _ in range(2):
            answer = await hooks.post("/gh", BODY, **github(BODY))
            assert (answer.status_code, answer.json()["set_aside"]) == (202, 1)
        assert await hooks.aside() == [("gh", "gh/d-1", "UNKNOWN_INTENT")]
        assert await hooks.runs() == []


async def test_a_full_queue_is_the_senders_to_wait_for(hooks: Edge) -> None:
    async with hooks.door.parts.db.connection() as connection:
        await connection.execute("INSERT INTO tenant (tenant, max_queued) VALUES ('default', 1)")
    await hooks.post("/gh", BODY, **github(BODY, "d-1"))
    full = await hooks.post("/gh", BODY, **github(BODY, "d-2"))
    assert full.status_code == 429
    assert int(full.headers["retry-after"]) >= 1
    again = await hooks.post("/gh", BODY, **github(BODY, "d-1"))
    assert (again.status_code, again.json()["duplicates"]) == (202, 1)
    assert await hooks.runs() == ["gh/d-1"]


async def test_without_an_invoker_nothing_is_taken_and_with_it_again_all_is(
    door: Invoker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with edge(door) as hooks:
        kept = door.parts.door.admit_all

        async def away(*_: object) -> object:
            from holdfast.kit.errors import LedgerUnavailable

            raise LedgerUnavailable("away")

        monkeypatch.setattr(door.parts.door, "admit_all", away)
        answer = await hooks.post("/gh", BODY, **github(BODY))
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        monkeypatch.setattr(door.parts.door, "admit_all", kept)
        assert (await hooks.post("/gh", BODY, **github(BODY))).status_code == 202
        assert await hooks.runs() == ["gh/d-1"]


async def test_a_secret_comes_from_a_file_and_may_be_changed_without_a_gap(
    door: Invoker, tmp_path: Path
) -> None:
    async with edge(door, secrets={}, folder=tmp_path) as hooks:
        answer = await hooks.post("/gh", BODY, **github(BODY, secret="old"))
        assert answer.status_code == 503, "it is not given yet"
        (tmp_path / "gh").write_text("old\nnew\n")
        for identity, secret in (("d-1", "old"), ("d-2", "new")):
            told = github(BODY, identity, secret=secret)
            assert (await hooks.post("/gh", BODY, **told)).status_code == 202
        (tmp_path / "gh").write_text("new\n")
        gone = await hooks.post("/gh", BODY, **github(BODY, "d-3", secret="old"))
        assert gone.status_code == 401
        assert len(await hooks.runs()) == 2


async def test_a_token_that_changes_ends_no_call_under_way(
    door: Invoker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admit = door.parts.door.admit_all
    arrived, may_go = asyncio.Event(), asyncio.Event()

    async def first_waits(given: Any) -> Any:
        if not arrived.is_set():
            arrived.set()
            await may_go.wait()
        return await admit(given)

    monkeypatch.setattr(door.parts.door, "admit_all", first_waits)
    token = tmp_path / "acme"
    token.write_text("hf_old")
    async with edge(door, {"gh": DECLARED["gh"] | {"token": "acme"}}, folder=tmp_path) as hooks:
        first = asyncio.create_task(hooks.post("/gh", BODY, **github(BODY, "d-1")))
        await arrived.wait()
        token.write_text("hf_new")
        assert (await hooks.post("/gh", BODY, **github(BODY, "d-2"))).status_code == 202
        may_go.set()
        assert (await first).status_code == 202
        assert await hooks.runs() == ["gh/d-2", "gh/d-1"]


async def test_what_is_declared_of_an_event_is_in_the_run(door: Invoker) -> None:
    more = {
        "tenant": "acme",
        "ordering_key": "body.repository.full_name",
        "correlation_id": "header.x-github-delivery",
        "labels": {"event": "header.x-github-event", "first": "body.list.0", "none": "body.nothing"},
        "priority": 7,
    }
    body = b'{"repository": {"full_name": "a/b"}, "list": [true], "id": 12345678901234567890}'
    async with edge(door, {"gh": DECLARED["gh"] | more}) as hooks:
        (run_id,) = (await hooks.post("/gh", body, **github(body))).json()["run_ids"]
        columns = "tenant, ordering_key, correlation_id, priority, labels"
        (row,) = await hooks.runs(columns)
        assert row[:4] == ("acme", "a/b", "d-1", 7)
        assert json.loads(row[4]) == {"event": "issues", "first": "true"}
        told = await door.invoker.GetRun(_get(run_id), metadata=[("holdfast-tenant", "acme")])
        assert told.run.payload["event"] == "issues"
        assert told.run.payload["id"] == "12345678901234567890"
        unordered = await hooks.post("/gh", BODY, **github(BODY, "d-2"))
        assert (unordered.status_code, unordered.json()["field"]) == (400, "body.repository.full_name")


async def test_an_event_may_be_known_by_what_it_holds(door: Invoker) -> None:
    declared = {
        "digest": {"path": "/digest", "verify": "none", "key": "digest"},
        "own": {"path": "/own", "verify": "none", "key": "body.order"},
    }
    async with edge(door, declared) as hooks:
        for _ in range(2):
            await hooks.post("/digest", BODY)
        assert (await hooks.post("/digest", b'{"n": 2}')).json()["accepted"] == 1
        await hooks.post("/own", b'{"order": "%s"}' % (b"o" * 300))
        await hooks.post("/own", b'{"order": 7}')
        keys = await hooks.runs()
        assert len(keys) == 4
        assert keys[3] == "own/7"
        assert keys[2].startswith("own/sha256:")
        other = await hooks.post("/own", b'{"order": 7, "total": 1}')
        assert other.json()["set_aside"] == 1, "a key that stands for something else is the operator's to see"
        assert await hooks.aside() == [("own", "own/7", "IDEMPOTENCY_KEY_REUSED")]


async def test_a_sender_that_leaves_amid_its_body_leaves_nothing(hooks: Edge) -> None:
    host, _, port = hooks.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /open HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nidempotency-key: a\r\n"
    )
    writer.write(b"content-length: 99\r\n\r\n{")
    await writer.drain()
    writer.close()
    assert (await hooks.post("/open", BODY, idempotency_key="b")).status_code == 202
    assert await hooks.runs() == ["open/b"]


async def test_only_posts_are_taken_and_health_is_open(hooks: Edge) -> None:
    assert (await hooks.http.get("/gh")).status_code == 405
    assert (await hooks.http.get("/healthz")).text == "ok\n"


def _get(run_id: str) -> object:
    from holdfast.v1.invoker_service_pb2 import GetRunRequest

    return GetRunRequest(run_id=run_id)
