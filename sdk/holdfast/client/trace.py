"""A call goes on in its caller's trace, for whoever uses OpenTelemetry; for others this costs nothing."""

import sys
from typing import Final

_API: Final = "opentelemetry.trace"


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Return the caller's trace as metadata, as W3C Trace Context has it; nothing where there is none."""
    if _API not in sys.modules:  # whoever traces has loaded it
        return ()
    from opentelemetry.propagate import inject

    carried: dict[str, str] = {}
    inject(carried)
    return tuple((key.lower(), value) for key, value in carried.items() if key.lower() in _CARRIED)


_CARRIED: Final = frozenset({"traceparent", "tracestate"})
"""And no baggage: what is in it is the caller's own."""
