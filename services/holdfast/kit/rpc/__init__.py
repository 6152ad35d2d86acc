"""How every service speaks gRPC: server, channel, layers around each call, statuses."""
