"""A span is told under the parent that came along, and never what an exception says."""

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from holdfast.kit.errors import RunNotFound
from holdfast.kit.telemetry import span
from holdfast.kit.telemetry.trace_id import trace_of
from tests.kit.test_tracing import spans

__all__ = ["spans"]

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        PARENT + "\n",
    ],
)
def test_what_is_no_traceparent_is_taken_for_none(wrong: str) -> None:
    assert not span.is_traceparent(wrong)
    assert span.remote(wrong) is None
    assert not span.is_sampled(wrong)


def test_while_nothing_is_traced_there_is_no_span_and_no_context() -> None:
    with span.within(span.start("quiet", under=PARENT)):
        assert span.traceparent() == ""


def test_a_span_goes_on_under_a_traceparent_and_gives_its_own(spans: InMemorySpanExporter) -> None:
    with span.within(span.start("loud", under=PARENT, links=(PARENT, "none"))):
        inside = span.traceparent()
    (told,) = spans.get_finished_spans()
    assert told.parent is not None
    assert inside[:36] == PARENT[:36]
    assert inside != PARENT
    assert f"{told.parent.span_id:016x}" == PARENT[36:52]
    assert len(told.links) == 1


def test_a_failure_is_told_by_its_reason_and_never_by_its_words(spans: InMemorySpanExporter) -> None:
    for error in (RunNotFound("canary"), ValueError("canary")):
        with pytest.raises(type(error)), span.within(span.start("failing")):
            raise error
    told = spans.get_finished_spans()
    assert [each.attributes and each.attributes["error.type"] for each in told] == [
        "RUN_NOT_FOUND",
        "ValueError",
    ]
    assert "canary" not in "".join(each.to_json() for each in told)


def test_the_trace_after_a_wait_follows_from_the_run_and_the_wait() -> None:
    assert trace_of("a", 1) == trace_of("a", 1)
    assert len({trace_of("a", 1), trace_of("a", 2), trace_of("b", 1)}) == 3
    assert 0 < trace_of("a", 0) < 2**128
