"""Traces leave the process only where an operator asked for them.

Off unless `configure` finds `OTEL_EXPORTER_OTLP_ENDPOINT`, or a tracer provider is set. What traces calls is
in `kit.rpc`; what traces everything else uses `kit.telemetry.span`.
"""

import time
from collections.abc import Mapping
from typing import Final

from opentelemetry import trace

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


def configure(service: str, environ: Mapping[str, str]) -> None:
    """Export spans to the endpoint that `environ` names, if any. Call once, before servers and channels.

    What else the exporter is told stands in the environment, too (`OTEL_EXPORTER_OTLP_HEADERS`,
    `OTEL_TRACES_SAMPLER`, …). What is left at the process's end is sent then.
    """
    if not environ.get(ENDPOINT):
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from holdfast.kit.telemetry.trace_id import ChosenIds

    provider = TracerProvider(
        resource=Resource.create({"service.name": f"holdfast-{service}"}), id_generator=ChosenIds()
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    _known.until = 0.0


class _Known:
    """What was found when OpenTelemetry was last asked: it looks into the environment each time."""

    def __init__(self) -> None:
        self.until = 0.0
        self.enabled = False


_known = _Known()


def enabled() -> bool:
    """Say whether spans go anywhere, as it was within the last second."""
    now = time.monotonic()
    if now >= _known.until:
        provider = trace.get_tracer_provider()
        _known.enabled = not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
        _known.until = now + 1.0
    return _known.enabled
