"""What every service needs and none is about: settings, rpc, errors, clock, ids, loops, telemetry."""

import os

# gRPC reads this while it is imported, so every service imports this package first (docs/adr/0019).
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_poller_for_python")
