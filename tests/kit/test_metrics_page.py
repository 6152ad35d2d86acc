"""The page of metrics is served to those who ask for it as one asks, and to nobody else."""

import asyncio

import pytest

from holdfast.kit import metrics_page
from holdfast.kit.metrics_page import shown
from holdfast.kit.process import Refused
from holdfast.kit.telemetry.metrics import Bounded, Metrics, counter


async def ask(address: str, request: bytes) -> bytes:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_the_page_speaks_both_forms_that_prometheus_reads() -> None:
    async with shown(Metrics("test"), "127.0.0.1:0") as address:
        plain = await ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert plain.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain")
        accept = b"Accept: application/openmetrics-text; version=1.0.0\r\n"
        opened = await ask(address, b"GET /metrics HTTP/1.1\r\n" + accept + b"\r\n")
        assert b"application/openmetrics-text" in opened
        assert opened.endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.1", b"404"),
        (b"GET /metricsx HTTP/1.1", b"404"),
        (b"DELETE /metrics HTTP/1.1", b"405"),
        (b"\xff\xfe", b"404"),
    ],
)
async def test_what_is_not_the_page_is_not_served(request_line: bytes, status: bytes) -> None:
    async with shown(Metrics("test"), "127.0.0.1:0") as address:
        assert (await ask(address, request_line + b"\r\n\r\n")).split(b" ")[1] == status


async def test_whoever_asks_slowly_or_too_much_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_page, "PATIENCE", 0.05)
    async with shown(Metrics("test"), "127.0.0.1:0") as address, asyncio.timeout(5):
        for request in (b"GET /metrics HT", b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000):
            try:
                told = await ask(address, request)
            except ConnectionResetError:
                continue
            assert told == b""


async def test_no_address_shows_nothing_and_a_wrong_or_busy_one_is_refused_in_a_sentence() -> None:
    async with shown(Metrics("test"), "") as nowhere:
        assert nowhere == ""
    for wrong in ("metrics.internal:1", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000"):
        with pytest.raises(Refused, match="host:port"):
            async with shown(Metrics("test"), wrong):
                pytest.fail("it is no address")
    async with shown(Metrics("test"), "127.0.0.1:0") as address:
        with pytest.raises(Refused, match="in use"):
            async with shown(Metrics("other"), address):
                pytest.fail("it is taken")


def test_a_label_that_callers_could_invent_takes_few_names() -> None:
    metrics = Metrics("test")
    tokens = Bounded(counter(metrics.registry, "tokens_total", "Tokens.", ["model"]).labels, most=2)
    for model in ("a", "b", "c", "d", "a"):
        tokens(model).inc()
    found = {model: metrics.registry.get_sample_value("tokens_total", {"model": model}) for model in "abcd"}
    assert found == {"a": 2.0, "b": 1.0, "c": None, "d": None}
    assert metrics.registry.get_sample_value("tokens_total", {"model": "other"}) == 2.0
