"""A run can be followed from the client's call to the webhook in one trace, whatever dies on the way."""

from collections import Counter
from pathlib import Path

import pytest
from opentelemetry import context as current
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from tests.support.collector import Told
from tests.telemetry.conftest import CALLER, TRACE, Watched

PATIENCE_S = 60.0


def parents(spans: list[Told], of: Told) -> list[str]:
    """Name what a span is in, the innermost first; what died with its process was never told."""
    by_id = {span.id: span for span in spans}
    names = []
    while of.parent in by_id:
        of = by_id[of.parent]
        names.append(of.name)
    return names


@pytest.mark.usefixtures("calling")
async def test_a_run_is_one_trace_from_the_clients_call_to_the_webhook_through_a_runners_death(
    watched: Watched, tmp_path: Path
) -> None:
    flag, collector = tmp_path / "die", watched.collector

    def numbers(name: str) -> set[int]:
        return {span.attributes["holdfast.commit.number"] for span in collector.find(name, run_id=run_id)}

    handle = await watched.client.invoke(
        "telemetry.work", {"topic": "boats", "flag": str(flag)}, correlation_id="order-7"
    )
    run_id = handle.run_id
    await collector.until(lambda: bool(collector.find("execute_tool search", run_id=run_id)))
    await collector.until(lambda: bool(collector.find("commit", run_id=run_id)))
    flag.touch()
    assert (await handle.ended(patience=PATIENCE_S)).status.name == "SUCCEEDED"
    await collector.until(lambda: bool(collector.find("deliver sink", run_id=run_id)))
    await collector.until(lambda: bool(collector.find("invoke_agent telemetry.work", run_id=run_id)))
    await collector.until(lambda: numbers("commit") <= numbers("store"))
    await collector.until(lambda: len(collector.find("lease", run_id=run_id)) == 2)
    spans = collector.spans
    ours = collector.find(run_id=run_id)
    assert flag.with_suffix(".dead").exists()
    assert {span.trace for span in ours} == {f"{TRACE:032x}"}

    # Nothing that was recorded before the death is told again by the replay.
    told = Counter(span.name for span in ours)
    for once in (
        "admission",
        "step look_up",
        "step model",
        "chat tiny",
        "execute_tool search",
        "step finish",
    ):
        assert told[once] == 1, once
    assert told["lease"] == 2
    assert told["invoke_agent telemetry.work"] == 1  # the first died with its process

    (admission,) = collector.find("admission", run_id=run_id)
    invoke = "/holdfast.v1.InvokerService/Invoke"
    assert parents(spans, admission) == [invoke]
    for lease in collector.find("lease", run_id=run_id):
        assert parents(spans, lease) == [invoke]
    agent = ["invoke_agent telemetry.work", "lease", invoke]
    (finish,) = collector.find("step finish", run_id=run_id)
    assert parents(spans, finish) == agent
    (delivery,) = collector.find("deliver sink", run_id=run_id)
    (webhook,) = watched.receiver.deliveries
    assert webhook.headers["traceparent"] == f"00-{TRACE:032x}-{delivery.id}-01"
    last = max(collector.find("store", run_id=run_id), key=lambda span: span.start_ns)
    assert parents(spans, last) == ["commit", *agent]

    (chat,) = collector.find("chat tiny", run_id=run_id)
    assert chat.attributes["gen_ai.operation.name"] == "chat"
    assert chat.attributes["gen_ai.request.model"] == "tiny"
    assert chat.attributes["gen_ai.usage.input_tokens"] > 0
    (tool,) = collector.find("execute_tool search", run_id=run_id)
    assert tool.attributes["gen_ai.tool.name"] == "search"
    assert all(span.events == 0 for span in ours)
    assert {span.attributes["holdfast.correlation_id"] for span in ours if span.service == "runner"} == {
        "order-7"
    }


@pytest.mark.usefixtures("calling")
async def test_after_a_wait_a_run_goes_on_in_a_trace_of_its_own_that_is_linked(watched: Watched) -> None:
    handle = await watched.client.invoke("telemetry.wait", wait=PATIENCE_S)
    assert handle.run.status.name == "SUCCEEDED"
    run_id, collector = handle.run_id, watched.collector
    await collector.until(lambda: len(collector.find("invoke_agent telemetry.wait", run_id=run_id)) == 2)
    await collector.until(lambda: bool(collector.find("step finish", run_id=run_id)))
    await collector.until(lambda: len(collector.find("lease", run_id=run_id)) == 2)
    (before,) = collector.find("step look_up", run_id=run_id)
    (after,) = collector.find("step finish", run_id=run_id)
    assert before.trace == f"{TRACE:032x}"
    assert after.trace != before.trace
    first, second = sorted(collector.find("lease", run_id=run_id), key=lambda span: span.start_ns)
    assert first.trace == before.trace
    assert not first.links
    assert (second.trace, second.parent, second.links) == (after.trace, "", (before.trace,))
    left = {
        span.trace: span.attributes["holdfast.left"] for span in collector.find("invoke_agent telemetry.wait")
    }
    assert left == {before.trace: "requeued", after.trace: "ended"}


async def test_nothing_is_traced_of_a_run_whose_caller_wants_no_trace(watched: Watched) -> None:
    handle = await watched.client.invoke("telemetry.work", {"topic": "quiet"}, run_id="", wait=PATIENCE_S)
    quiet = SpanContext(TRACE + 1, CALLER, is_remote=False, trace_flags=TraceFlags(0))
    token = current.attach(set_span_in_context(NonRecordingSpan(quiet)))
    try:
        hidden = await watched.client.invoke("telemetry.work", {"topic": "quiet"}, wait=PATIENCE_S)
    finally:
        current.detach(token)
    last = await watched.client.invoke("telemetry.work", {"topic": "loud"}, wait=PATIENCE_S)
    collector = watched.collector
    await collector.until(lambda: bool(collector.find("deliver sink", run_id=last.run_id)))
    await collector.until(lambda: bool(collector.find("step finish", run_id=last.run_id)))
    assert collector.find("step finish", run_id=handle.run_id)
    assert collector.find(run_id=hidden.run_id) == []
    told = [webhook.headers["traceparent"] for webhook in watched.receiver.deliveries]
    assert any(
        each == f"00-{TRACE + 1:032x}-{CALLER:016x}-00" or each[3:35] == f"{TRACE + 1:032x}" for each in told
    )
