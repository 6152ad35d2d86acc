"""The edge: events from outside become runs, each once; who sends is told so only when it is durable."""

import holdfast.kit  # noqa: F401 - before anything imports gRPC
