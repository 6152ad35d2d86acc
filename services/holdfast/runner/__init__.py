"""The runner: runs agent code, and holds no secrets of the platform."""

import holdfast.kit  # noqa: F401 - before anything imports gRPC
