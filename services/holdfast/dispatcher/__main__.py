"""Runs the Dispatcher: `python -m holdfast.dispatcher`."""

import asyncio
import os
import sys

from holdfast.dispatcher.address import AddressPolicy
from holdfast.dispatcher.dispatch import Dispatch
from holdfast.dispatcher.metrics import DispatcherMetrics
from holdfast.dispatcher.secret import Secrets
from holdfast.dispatcher.sender import Sender
from holdfast.dispatcher.servicer import OutboxServicer
from holdfast.dispatcher.settings import DispatcherSettings
from holdfast.kit.clock import SystemClock
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
from holdfast.v1.outbox_service_pb2_grpc import add_OutboxServiceServicer_to_server


async def main(stop: Stop) -> None:
    """Put the parts together and serve until told to stop."""
    settings = load(DispatcherSettings, os.environ)
    configure("dispatcher")
    tracing.configure("dispatcher", os.environ)
    clock = SystemClock()
    policy = AddressPolicy(
        allowed_hosts=settings.allowed_hosts,
        allowed_ports=settings.allowed_ports,
        allow_private=settings.allow_private_addresses,
        allow_plain_http=settings.allow_plain_http,
    )
    sender = Sender(
        policy, Secrets(os.environ, settings.secrets_dir), clock, at_once=settings.deliveries_at_once
    )
    async with await Database.connect(
        settings.database_url,
        application_name="holdfast-dispatcher",
        server_settings=SESSION_SETTINGS,
        pool_size=settings.database_pool,
    ) as db:
        metrics = Metrics("dispatcher")
        watch_pool(metrics.registry, db)
        counts = DispatcherMetrics(metrics.registry)
        dispatch = Dispatch(
            db,
            sender,
            clock,
            at_once=settings.deliveries_at_once,
            poll_interval=settings.poll_interval,
            heartbeat_interval=settings.heartbeat_interval,
            lease_ttl=settings.lease_ttl,
            metrics=counts,
        )
        outbox = OutboxServicer(db, policy, dispatch.wake)
        dispatching = asyncio.create_task(dispatch.run())
        dispatching.add_done_callback(lambda _: stop.ask("the dispatching ended"))
        gauges = Loop("gauges", lambda: counts.look(db), interval=GAUGE_SECONDS)
        looking = asyncio.create_task(gauges.run(stop)) if settings.metrics_listen else None
        try:
            await serve(
                [Registration(add_OutboxServiceServicer_to_server, outbox, "holdfast.v1.OutboxService")],
                settings.listen,
                stop,
                service="dispatcher",
                grace=settings.drain_grace,
                drain=lambda: dispatch.drain(settings.drain_grace),
                translate=as_fault,
                access=ledger_access(db, settings),
                metrics=metrics,
                metrics_listen=settings.metrics_listen,
            )
            await dispatching  # ended by the drain; raises if it ended by a fault
        finally:
            ending = [dispatching] if looking is None else [dispatching, looking]
            for task in ending:
                task.cancel()
            await asyncio.wait(ending)
            await sender.close()


if __name__ == "__main__":
    sys.exit(run_service(main, settings=lambda: load(DispatcherSettings, os.environ)))
