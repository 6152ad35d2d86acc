"""What every service needs and none is about: settings, rpc, errors, clock, ids, loops, telemetry."""
