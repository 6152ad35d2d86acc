"""What a metric, a log field and a span cost where they are told: `python -m bench.telemetry`.

Microseconds for each, the best of several rounds; nothing is started and nothing leaves the process.
"""

import asyncio
import timeit
from collections.abc import Callable

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry

from holdfast.agent.budget import Limits
from holdfast.agent.wire.draft import FUNCTION
from holdfast.agent.wire.invocation import Invocation
from holdfast.checkpoint.metrics import PROGRESS, CheckpointMetrics, LineMetrics
from holdfast.kit.telemetry import logs, span
from holdfast.kit.telemetry.metrics import CallMetrics, timed
from holdfast.kit.telemetry.trace_id import ChosenIds
from holdfast.runner.metrics import RunnerMetrics
from holdfast.runner.observation import Observation, Sent

ROUNDS = 5
NUMBER = 20_000
SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class _Nowhere(SpanExporter):
    def export(self, spans: object) -> SpanExportResult:
        """Drop them."""
        del spans
        return SpanExportResult.SUCCESS


def measured(name: str, once: Callable[[], object]) -> None:
    """Print what one call costs."""
    best = min(timeit.repeat(once, repeat=ROUNDS, number=NUMBER)) / NUMBER
    print(f"{name:58} {best * 1e6:7.2f} µs")


def run(traced: str) -> None:
    """Measure everything once."""
    registry = CollectorRegistry()
    runner = RunnerMetrics(registry)
    line = LineMetrics(CheckpointMetrics(CollectorRegistry()), PROGRESS)
    calls = CallMetrics(CollectorRegistry())
    limits = Limits(deadline=60, steps=1, tools=1, tokens=1, context=1)
    under = SAMPLED if traced else ""
    observation = Observation(Invocation("r", "hello", {}, limits, traceparent=under), "1", runner)
    label = f" ({traced})" if traced else ""

    def step() -> None:
        with observation.step("fetch", "fetch", FUNCTION):
            pass

    measured(f"a latency of a commit{label}", lambda: timed(line.seconds, 0.002, under))
    measured(f"a served RPC{label}", lambda: calls.ended("/holdfast.v1.InvokerService/Invoke", "OK", 0.003))
    measured(f"a step{label}", step)
    measured(f"a commit sent{label}", lambda: Sent(observation, 1))
    measured(f"the span of an admission{label}", lambda: span.start("admission", attributes={"a": "b"}).end())


async def main() -> None:
    """Measure without and with tracing."""
    counter = CheckpointMetrics(CollectorRegistry()).commits.labels(PROGRESS, "stored")
    measured("a counter", counter.inc)
    measured("a field of log lines", lambda: logs.bind(run_id="r"))
    run("")
    provider = TracerProvider(id_generator=ChosenIds())
    provider.add_span_processor(BatchSpanProcessor(_Nowhere(), max_queue_size=4096))
    trace.set_tracer_provider(provider)
    run("traced")
    provider.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
