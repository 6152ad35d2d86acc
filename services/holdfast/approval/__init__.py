"""Approval: no run waits forever, no decision is lost or forged."""

import holdfast.kit  # noqa: F401 - before anything imports gRPC
