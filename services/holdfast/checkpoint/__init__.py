"""Checkpoint: what was acknowledged survives; what was fenced never lands."""

import holdfast.kit  # noqa: F401 - before anything imports gRPC
