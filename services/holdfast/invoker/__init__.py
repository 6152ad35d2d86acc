"""The invoker: nothing starts unbounded, twice, or unfairly."""

import holdfast.kit  # noqa: F401 - before anything imports gRPC
