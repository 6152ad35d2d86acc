"""Runs the Invoker: `python -m holdfast.invoker`."""

import os
import sys

from holdfast.invoker.metrics import InvokerMetrics
from holdfast.invoker.parts import Parts, Running
from holdfast.invoker.registrations import HOT, registrations
from holdfast.invoker.settings import InvokerSettings
from holdfast.kit.db import Database, as_fault
from holdfast.kit.db_metrics import watch_pool
from holdfast.kit.process import Stop, run_service
from holdfast.kit.rpc.server import serve
from holdfast.kit.secret import Secrets
from holdfast.kit.settings import load
from holdfast.kit.telemetry import tracing
from holdfast.kit.telemetry.logs import configure
from holdfast.kit.telemetry.metrics import Metrics
from holdfast.ledger.gatekeeping import ledger_access
from holdfast.ledger.session_settings import SESSION_SETTINGS


async def main(stop: Stop) -> None:
    """Put the parts together and serve until told to stop."""
    settings = load(InvokerSettings, os.environ)
    configure("invoker")
    tracing.configure("invoker", os.environ)
    async with await Database.connect(
        settings.database_url,
        application_name="holdfast-invoker",
        server_settings=SESSION_SETTINGS,
        pool_size=settings.database_pool,
    ) as db:
        metrics = Metrics("invoker")
        watch_pool(metrics.registry, db)
        secrets = Secrets(os.environ, settings.secrets_dir)
        parts = Parts.make(db, settings, InvokerMetrics(metrics.registry), secrets=secrets)
        async with Running(parts, stop) as running:
            await serve(
                registrations(parts),
                settings.listen,
                stop,
                service="invoker",
                grace=settings.drain_grace,
                drain=running.drain,
                translate=as_fault,
                access=ledger_access(db, settings),
                hot=HOT,
                shed=parts.door.shed,
                metrics=metrics,
                metrics_listen=settings.metrics_listen,
            )


if __name__ == "__main__":
    sys.exit(run_service(main, settings=lambda: load(InvokerSettings, os.environ)))
