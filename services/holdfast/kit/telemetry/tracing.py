"""Traces leave the process only where an operator asked for them.

Off unless `configure` finds `OTEL_EXPORTER_OTLP_ENDPOINT`, or a tracer provider is set. What traces calls is
in `kit.rpc`.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Final

from opentelemetry import trace

from holdfast.kit.settings import SettingsError

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_EXPORTER: Final = "opentelemetry.exporter.otlp.proto.grpc"


def configure(service: str, environ: Mapping[str, str]) -> None:
    """Export spans to the endpoint that `environ` names, if any. Call once, before servers and channels.

    Raises `SettingsError` if the exporter is not installed.
    """
    if not environ.get(ENDPOINT):
        return
    if not _installed(_EXPORTER):
        raise SettingsError(
            f"{ENDPOINT} is set, but opentelemetry-exporter-otlp-proto-grpc is not installed."
        )
    from importlib import import_module

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = import_module(f"{_EXPORTER}.trace_exporter").OTLPSpanExporter()
    provider = TracerProvider(resource=Resource.create({"service.name": f"holdfast-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def enabled() -> bool:
    """Say whether spans go anywhere."""
    provider = trace.get_tracer_provider()
    return not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False
