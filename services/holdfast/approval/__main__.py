"""Runs the Approval service: `python -m holdfast.approval`."""

import asyncio
import os
import sys

from holdfast.approval.metrics import ApprovalMetrics
from holdfast.approval.servicer import ApprovalServicer
from holdfast.approval.settings import ApprovalSettings
from holdfast.approval.telling import Telling
from holdfast.kit.db import Database, as_fault
from holdfast.kit.db_metrics import watch_pool
from holdfast.kit.loops import Loop
from holdfast.kit.process import Stop, run_service
from holdfast.kit.rpc.server import Registration, serve
from holdfast.kit.settings import load
from holdfast.kit.telemetry import tracing
from holdfast.kit.telemetry.logs import configure
from holdfast.kit.telemetry.metrics import GAUGE_SECONDS, Metrics
from holdfast.ledger import SESSION_SETTINGS
from holdfast.ledger.gatekeeping import ledger_access
from holdfast.ledger.notice import Notices
from holdfast.v1.approval_service_pb2_grpc import add_ApprovalServiceServicer_to_server

NAME = "holdfast.v1.ApprovalService"


async def main(stop: Stop) -> None:
    """Put the parts together and serve until told to stop."""
    settings = load(ApprovalSettings, os.environ)
    configure("approval")
    tracing.configure("approval", os.environ)
    async with await Database.connect(
        settings.database_url,
        application_name="holdfast-approval",
        server_settings=SESSION_SETTINGS,
        pool_size=settings.database_pool,
    ) as db:
        notices = Notices(db)
        telling = Telling(db, notices)
        metrics = Metrics("approval")
        watch_pool(metrics.registry, db)
        counts = ApprovalMetrics(metrics.registry)
        servicer = ApprovalServicer(db, telling, counts)
        listener = telling.listen()
        over = asyncio.Event()
        tasks = [asyncio.create_task(telling.loop.run(over))]
        if settings.metrics_listen:
            gauges = Loop("gauges", lambda: counts.look(db), interval=GAUGE_SECONDS)
            tasks.append(asyncio.create_task(gauges.run(over)))
        try:
            await serve(
                [Registration(add_ApprovalServiceServicer_to_server, servicer, NAME)],
                settings.listen,
                stop,
                service="approval",
                grace=settings.drain_grace,
                drain=servicer.drain,
                translate=as_fault,
                access=ledger_access(db, settings),
                metrics=metrics,
                metrics_listen=settings.metrics_listen,
            )
        finally:
            over.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await listener.close()
            await notices.close()


if __name__ == "__main__":
    sys.exit(run_service(main, settings=lambda: load(ApprovalSettings, os.environ)))
