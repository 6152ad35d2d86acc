"""The web console: one place to look at runs, answer what people are asked, and put right what went wrong."""

import holdfast.kit  # noqa: F401 - before anything imports gRPC
