"""The dispatcher: each intent reaches its destination once, in order, without hammering it."""

import holdfast.kit  # noqa: F401 - before anything imports gRPC
