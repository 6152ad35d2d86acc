"""Ask every address given for its health, and exit with 1 unless all are serving."""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def status(address: str) -> str:
    """Return the word for how the server at an address is."""
    with grpc.insecure_channel(f"dns:///{address}") as channel:
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
