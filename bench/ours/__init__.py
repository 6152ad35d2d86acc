"""Holdfast itself as a contender: the whole suite as processes, asked through its public contract."""

import holdfast.kit  # noqa: F401 - before gRPC is imported, as in every service (docs/adr/0019)
