"""What the services show Prometheus is what has happened, with the traces it happened in."""

import asyncio
import re
from collections.abc import Callable

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
from prometheus_client.samples import Sample

from tests.telemetry.conftest import SERVICES, Watched

PATIENCE_S = 60.0


def samples(page: str, name: str, **labels: str) -> list[Sample]:
    """Return the samples of a name whose labels hold these."""
    return [
        sample
        for family in parse(page)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


def total(page: str, name: str, **labels: str) -> float:
    """Add the samples up."""
    return sum(sample.value for sample in samples(page, name, **labels))


async def until(watched: Watched, service: str, seen: Callable[[str], bool]) -> str:
    """Read a page until it shows something."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            page = await watched.page(service)
            if seen(page):
                return page
            await asyncio.sleep(0.1)


async def test_what_a_run_does_is_counted_by_every_service_it_passes(watched: Watched) -> None:
    handle = await watched.client.invoke("telemetry.work", {"topic": "boats"}, wait=PATIENCE_S)
    assert handle.run.status.name == "SUCCEEDED"
    delivered = {"kind": "http", "outcome": "delivered"}
    dispatcher = await until(
        watched, "dispatcher", lambda page: total(page, "holdfast_effects_total", **delivered) == 1
    )
    assert total(dispatcher, "holdfast_delivery_duration_seconds_count", **delivered) == 1

    invoker = await watched.page("invoker")
    assert total(invoker, "holdfast_admission_duration_seconds_count", outcome="created") == 1
    assert total(invoker, "holdfast_runs_leased_total") == 1
    waited = {"class": "service"}
    assert total(invoker, "holdfast_queue_wait_seconds_count", **waited) == 1
    called = {"method": "holdfast.v1.InvokerService/Invoke", "code": "OK"}
    assert total(invoker, "holdfast_grpc_request_duration_seconds_count", **called) == 1
    assert total(invoker, "holdfast_runners_connected") == 1
    assert 0 < total(invoker, "holdfast_db_pool_used") <= total(invoker, "holdfast_db_pool_size")

    runner = await watched.page("runner")
    for kind, count in (("function", 2), ("model", 1), ("tool", 1)):
        ran = {"kind": kind, "outcome": "succeeded"}
        assert total(runner, "holdfast_step_duration_seconds_count", **ran) == count
    ended = {"intent": "telemetry.work", "left": "ended"}
    assert total(runner, "holdfast_activations_total", **ended) == 1
    assert total(runner, "holdfast_model_call_duration_seconds_count", model="tiny", outcome="succeeded") == 1
    assert total(runner, "holdfast_model_tokens_total", model="tiny", direction="input") > 0
    assert total(runner, "holdfast_commit_round_trip_seconds_count") >= 4

    checkpoint = await watched.page("checkpoint")
    assert total(checkpoint, "holdfast_commits_total", answer="stored") >= 4
    assert total(checkpoint, "holdfast_runs_ended_total", status="SUCCEEDED") == 1

    # A latency leads to the trace it was measured in.
    await watched.collector.until(
        lambda: bool(watched.collector.find("invoke_agent telemetry.work", run_id=handle.run_id))
    )
    (agent,) = watched.collector.find("invoke_agent telemetry.work", run_id=handle.run_id)
    exemplars = {
        sample.exemplar.labels["trace_id"]
        for sample in samples(runner, "holdfast_step_duration_seconds_bucket")
        if sample.exemplar is not None
    }
    assert exemplars == {agent.trace}
    invoked = samples(invoker, "holdfast_grpc_request_duration_seconds_bucket", **called)
    assert {each.exemplar.labels["trace_id"] for each in invoked if each.exemplar} == {agent.trace}


async def test_pages_are_bounded_name_no_run_and_no_user_and_are_all_that_is_served(watched: Watched) -> None:
    handle = await watched.client.invoke(
        "telemetry.work", {"topic": "boats"}, user="ann", idempotency_key="ann-7", wait=PATIENCE_S
    )
    for service in SERVICES:
        plain = await watched.page(service, accept="text/plain")
        assert handle.run_id not in plain
        assert "ann" not in re.sub(r"^#.*$", "", plain, flags=re.MULTILINE).split("="), service
        assert 'service="' + service + '"' in plain
        assert "holdfast_event_loop_lag_seconds_bucket" in plain
        assert len(plain.splitlines()) < 1500
    origin = f"http://{watched.suite.processes['runner'].metrics}"
    async with httpx.AsyncClient(base_url=origin, trust_env=False) as reader:
        assert (await reader.get("/")).status_code == 404
        assert (await reader.post("/metrics")).status_code == 405
        head = await reader.head("/metrics")
        assert (head.status_code, head.content) == (200, b"")


async def test_a_queue_that_nobody_serves_shows_its_depth_and_age(watched: Watched) -> None:
    await watched.suite.processes["runner"].stop()
    for _ in range(3):
        await watched.client.invoke("telemetry.work", {"topic": "boats"})
    page = await until(
        watched,
        "invoker",
        lambda page: (
            total(page, "holdfast_queue_depth", intent="telemetry.work") == 3
            and total(page, "holdfast_queue_oldest_age_seconds", intent="telemetry.work") > 0
        ),
    )
    assert total(page, "holdfast_tenant_queue_depth", tenant="default") == 3
    assert total(page, "holdfast_timer_lag_seconds") < 60
