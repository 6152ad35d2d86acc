"""Runs the Approval service: `python -m holdfast.approval`."""

import os
import sys

from holdfast.approval.settings import ApprovalSettings
from holdfast.kit.process import Stop, run_service
from holdfast.kit.rpc.later import later
from holdfast.kit.rpc.server import Registration, serve
from holdfast.kit.settings import load
from holdfast.kit.telemetry.logs import configure
from holdfast.v1.approval_service_pb2_grpc import (
    ApprovalServiceServicer,
    add_ApprovalServiceServicer_to_server,
)


async def main(stop: Stop) -> None:
    """Serve until told to stop."""
    settings = load(ApprovalSettings, os.environ)
    configure("approval")
    gates = later(ApprovalServiceServicer, "Approvals are not served by this release.")
    approvals = Registration(add_ApprovalServiceServicer_to_server, gates, "holdfast.v1.ApprovalService")
    await serve([approvals], settings.listen, stop, service="approval", grace=settings.drain_grace)


if __name__ == "__main__":
    sys.exit(run_service(main, settings=lambda: load(ApprovalSettings, os.environ)))
