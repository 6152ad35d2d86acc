"""The stand-in for an outside system takes webhooks as a careful one would."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from examples.standins.fault import Fault
from examples.standins.webhook_receiver import WebhookReceiver

SECRET = "whsec_c3RhbmQtaW4tc2VjcmV0LTAxMjM0NTY3ODk="


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with WebhookReceiver(secret=SECRET) as receiver:
        yield receiver


@pytest.fixture
async def http(receiver: WebhookReceiver) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=receiver.url, trust_env=False, timeout=5) as http:
        yield http


def signed(body: str, key: str) -> dict[str, str]:
    now = datetime.now(UTC)
    return {
        "Idempotency-Key": key,
        "webhook-id": key,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(SECRET).sign(key, now, body),
    }


async def deliver(http: httpx.AsyncClient, key: str, path: str = "/tickets/7") -> httpx.Response:
    body = json.dumps({"note": "ünï"}, ensure_ascii=False)
    return await http.post(path, content=body.encode(), headers=signed(body, key))


async def test_a_signed_delivery_is_taken_and_a_repeated_one_has_no_second_effect(
    http: httpx.AsyncClient,
) -> None:
    first, second = await deliver(http, "k1"), await deliver(http, "k1")
    assert (first.status_code, first.json()["duplicate"]) == (200, False)
    assert (second.status_code, second.json()["duplicate"]) == (200, True)
    received = (await http.get("/received")).json()
    assert [item["count"] for item in received] == [2, 2]
    assert [item["applied"] for item in received] == [True, False]
    assert [item["verified"] for item in received] == [True, True]
    assert (received[0]["path"], received[0]["body"]) == ("/tickets/7", {"note": "ünï"})
    assert received[0]["headers"]["idempotency-key"] == "k1"
    assert (await http.get("/stats")).json() == {"deliveries": 2, "applied": 1, "idempotency_keys": 1}


@pytest.mark.parametrize("signature", ["v1,AAAA", "nonsense", "v1,é", "", "v1,*"])
async def test_a_wrong_signature_is_refused_and_has_no_effect(
    http: httpx.AsyncClient, receiver: WebhookReceiver, signature: str
) -> None:
    headers = {**signed("{}", "k"), "webhook-signature": signature.encode().decode("latin-1")}
    response = await http.post("/", content=b"{}", headers=httpx.Headers(headers, encoding="latin-1"))
    assert response.status_code == 401
    assert receiver.received()[0]["verified"] is False
    assert receiver.statistics()["applied"] == 0


async def test_a_body_that_is_no_text_is_refused_where_signatures_count(http: httpx.AsyncClient) -> None:
    assert (await http.post("/", content=b"\xff\xfe", headers=signed("x", "k"))).status_code == 401


async def test_without_a_secret_anything_is_taken() -> None:
    async with WebhookReceiver() as receiver, httpx.AsyncClient(trust_env=False) as http:
        assert (await http.post(f"{receiver.url}/any/path?x=1", content=b"plain")).status_code == 200
        assert receiver.received()[0]["verified"] is None
        assert receiver.received()[0]["body"] == "plain"


async def test_faults_before_the_effect_leave_the_delivery_to_a_retry(
    http: httpx.AsyncClient, receiver: WebhookReceiver
) -> None:
    receiver.faults.add(Fault("500"))
    receiver.faults.add(Fault("429", retry_after=2))
    receiver.faults.add(Fault("reset"))
    assert (await deliver(http, "k")).status_code == 500
    assert (await deliver(http, "k")).headers["retry-after"] == "2"
    with pytest.raises(httpx.TransportError):
        await deliver(http, "k")
    assert receiver.statistics()["applied"] == 0
    assert (await deliver(http, "k")).json()["duplicate"] is False
    assert [item["status"] for item in receiver.received()] == [500, 429, None, 200]


@pytest.mark.parametrize("kind", ["reset_after", "hang_after"])
async def test_faults_after_the_effect_make_the_retry_a_duplicate(
    http: httpx.AsyncClient, receiver: WebhookReceiver, kind: str
) -> None:
    assert (await http.post("/admin/faults", json={"kind": kind})).status_code == 204
    http.timeout = httpx.Timeout(0.2)
    with pytest.raises(httpx.TransportError):
        await deliver(http, "k")
    assert (await deliver(http, "k")).json()["duplicate"] is True
    assert receiver.statistics() == {"deliveries": 2, "applied": 1, "idempotency_keys": 1}


async def test_as_a_process_it_tells_its_url_and_serves() -> None:
    command = [sys.executable, "-m", "examples.standins.webhook_receiver", "--port", "0", "--secret", SECRET]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        url = json.loads(await process.stdout.readline())["url"]
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            assert (await deliver(http, "k")).status_code == 200
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
