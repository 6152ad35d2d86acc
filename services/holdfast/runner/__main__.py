"""Runs the Runner service: `python -m holdfast.runner`."""

import asyncio
import contextlib
import os
import secrets
import sys
from collections.abc import Coroutine
from typing import Any

from holdfast.kit.auth.access import Access
from holdfast.kit.auth.attach import AttachToken
from holdfast.kit.auth.proof import Proof
from holdfast.kit.metrics_page import shown
from holdfast.kit.process import Stop, announce, run_service
from holdfast.kit.rpc.server import Registration, Server
from holdfast.kit.settings import load
from holdfast.kit.telemetry import tracing
from holdfast.kit.telemetry.logs import configure
from holdfast.kit.telemetry.metrics import Metrics
from holdfast.payload import SealedServer, Sealing
from holdfast.runner.agents import Agents, import_apps
from holdfast.runner.children import InvokerChildren
from holdfast.runner.commit_stream import CommitStream
from holdfast.runner.gates import ApprovalGates
from holdfast.runner.holding import Holding
from holdfast.runner.lease_stream import LeaseStream
from holdfast.runner.metrics import RunnerMetrics
from holdfast.runner.servicer import RunnerServicer
from holdfast.runner.settings import RunnerSettings
from holdfast.runner.standard_output import kept_for_us
from holdfast.runner.way import Way
from holdfast.v1.runner_service_pb2_grpc import add_RunnerServiceServicer_to_server

NAME = "holdfast.v1.RunnerService"


async def main(stop: Stop) -> None:
    """Put the parts together and run agents until told to stop."""
    settings = load(RunnerSettings, os.environ)
    configure("runner")
    tracing.configure("runner", os.environ)
    codec = settings.codec()
    sealing = None if codec is None else Sealing(codec)
    way = Way(Proof(settings.token, settings.token_file), settings.tls, sealing)
    attach_token = secrets.token_urlsafe(32) if settings.identity else ""
    async with contextlib.AsyncExitStack() as stack:
        standard_output = stack.enter_context(kept_for_us())
        agents = Agents(import_apps(settings.agents))
        commits = CommitStream(settings.checkpoint_address, way)
        gates = ApprovalGates(settings.approval_address, way)
        children = InvokerChildren(settings.invoker_address, way)
        metrics = Metrics("runner")
        holding = Holding(
            agents,
            commits,
            settings.slots,
            gates,
            children,
            metrics=RunnerMetrics(metrics.registry),
            sealing=sealing,
        )
        servicer = RunnerServicer(holding, holding.drain)
        server = Server(
            [Registration(add_RunnerServiceServicer_to_server, servicer, NAME, ready=False)],
            settings.listen,
            access=Access(
                AttachToken(attach_token) if attach_token else None,
                allow_insecure_bind=settings.allow_insecure_bind,
                tls=settings.tls,
                health_listen=settings.health_listen,
            ),
            metrics=metrics,
            interceptors=[] if sealing is None else [SealedServer(sealing)],
        )
        await server.start()
        leases = LeaseStream(
            settings.invoker_address,
            settings.advertise or server.address,
            agents,
            holding,
            way=way,
            attach_token=attach_token,
        )
        streams = [asyncio.create_task(commits.run()), asyncio.create_task(leases.run())]
        try:
            page = await stack.enter_async_context(shown(metrics, settings.metrics_listen))
            # Ready is who can be sent work: before that its intents may be unknown at the door.
            await _until([stop.wait(), leases.in_session.wait()], streams)
            await server.set_serving(True, NAME)
            with contextlib.redirect_stdout(standard_output):
                announce("runner", server.address, **({"metrics": page} if page else {}))
            await _until([stop.wait()], streams)
            await server.health.enter_graceful_shutdown()
            await holding.drain(settings.drain_grace)
            await leases.told(1.0)
        finally:
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
            await server.stop(1.0)
            await agents.close()
            await gates.close()
            await children.close()


async def _until(events: list[Coroutine[Any, Any, object]], streams: list[asyncio.Task[None]]) -> None:
    """Wait for one of the events; a stream that fails for a reason of ours ends the process with it."""
    awaited = [asyncio.create_task(event) for event in events]
    try:
        await asyncio.wait([*awaited, *streams], return_when=asyncio.FIRST_COMPLETED)
        for stream in streams:
            if stream.done():
                stream.result()
    finally:
        for each in awaited:
            each.cancel()


if __name__ == "__main__":
    sys.exit(run_service(main, settings=lambda: load(RunnerSettings, os.environ)))
