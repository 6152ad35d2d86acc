"""Runs the Checkpoint service: `python -m holdfast.checkpoint`."""

import asyncio
import os
import sys

from holdfast.checkpoint.group import Line
from holdfast.checkpoint.metrics import MOVES, PROGRESS, CheckpointMetrics, LineMetrics
from holdfast.checkpoint.servicer import CheckpointServicer
from holdfast.checkpoint.settings import CheckpointSettings
from holdfast.checkpoint.store import Storing
from holdfast.kit.db import Database, as_fault
from holdfast.kit.db_metrics import watch_pool
from holdfast.kit.process import Stop, run_service
from holdfast.kit.rpc.server import Registration, serve
from holdfast.kit.settings import load
from holdfast.kit.telemetry import tracing
from holdfast.kit.telemetry.logs import configure
from holdfast.kit.telemetry.metrics import Metrics
from holdfast.ledger import SESSION_SETTINGS
from holdfast.ledger.gatekeeping import ledger_access
from holdfast.ledger.notice import Notices
from holdfast.v1.checkpoint_service_pb2_grpc import add_CheckpointServiceServicer_to_server

NAME = "holdfast.v1.CheckpointService"


async def main(stop: Stop) -> None:
    """Put the parts together and serve until told to stop."""
    settings = load(CheckpointSettings, os.environ)
    configure("checkpoint")
    tracing.configure("checkpoint", os.environ)
    async with await Database.connect(
        settings.database_url,
        application_name="holdfast-checkpoint",
        server_settings=SESSION_SETTINGS,
        pool_size=settings.database_pool,
    ) as db:
        notices = Notices(db)
        metrics = Metrics("checkpoint")
        watch_pool(metrics.registry, db)
        commits = CheckpointMetrics(metrics.registry)
        progress, moves = (
            Line(Storing(db.seat(), notices), LineMetrics(commits, line)) for line in (PROGRESS, MOVES)
        )
        commits.waits(lambda: len(progress) + len(moves))
        servicer = CheckpointServicer(
            db,
            notices,
            progress=progress,
            moves=moves,
            acknowledgement_timeout=settings.acknowledgement_timeout,
            capabilities=settings.capabilities(),
        )
        lines = [asyncio.create_task(line.run()) for line in (progress, moves)]
        try:
            await serve(
                [Registration(add_CheckpointServiceServicer_to_server, servicer, NAME)],
                settings.listen,
                stop,
                service="checkpoint",
                grace=settings.drain_grace,
                drain=servicer.drain,
                translate=as_fault,
                access=ledger_access(db, settings),
                hot=[f"/{NAME}/Commit"],
                metrics=metrics,
                metrics_listen=settings.metrics_listen,
            )
        finally:
            progress.close()
            moves.close()
            await asyncio.gather(*lines)
            await notices.close()


if __name__ == "__main__":
    sys.exit(run_service(main, settings=lambda: load(CheckpointSettings, os.environ)))
