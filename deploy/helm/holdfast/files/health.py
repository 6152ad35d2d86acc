"""Ask every address given for its health, and exit with 1 unless all are serving."""

import os
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def opened(address: str) -> grpc.Channel:
    """Return a channel as the services have one to each other: over TLS where they speak it."""
    ca, key, cert = (os.environ.get(f"HOLDFAST_TLS_{name}_FILE") for name in ("CA", "KEY", "CERT"))
    target = f"dns:///{address}"
    if ca is None or key is None or cert is None:
        return grpc.insecure_channel(target)
    files = (Path(name).read_bytes() for name in (ca, key, cert))
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(*files))


def status(address: str) -> str:
    """Return the word for how the server at an address is."""
    with opened(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=30, wait_for_ready=True
            )
        except grpc.RpcError as error:
            return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


found = {address: status(address) for address in sys.argv[1:]}
for address, word in found.items():
    sys.stdout.write(f"{word:<20}{address}\n")
sys.exit(any(word != "SERVING" for word in found.values()))
