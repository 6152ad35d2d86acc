"""Runs the edge: `python -m holdfast.edge`."""

import asyncio
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn

from holdfast.edge.app import application
from holdfast.edge.connection import patient_for
from holdfast.edge.declaration import read_sources
from holdfast.edge.intake import Intake
from holdfast.edge.nats_source import NatsReader
from holdfast.edge.secret import Secrets
from holdfast.edge.settings import EdgeSettings
from holdfast.edge.source import HttpSource, NatsSource, Source
from holdfast.kit.process import Refused, Stop, announce, run_service
from holdfast.kit.settings import SettingsError, load
from holdfast.kit.telemetry import tracing
from holdfast.kit.telemetry.logs import configure


class _Server(uvicorn.Server):
    """Leaves signals to the process, which asks it to end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signal."""
        yield


async def main(stop: Stop) -> None:
    """Take events until told to stop."""
    settings = load(EdgeSettings, os.environ)
    configure("edge")
    tracing.configure("edge", os.environ)
    sources = _sources(settings)
    secrets = Secrets(os.environ, settings.secrets_dir)
    intake = Intake(settings, secrets)
    readers = [NatsReader(source, intake, secrets) for source in sources if isinstance(source, NatsSource)]
    reading = [asyncio.create_task(reader.run(stop)) for reader in readers]
    for task in reading:
        task.add_done_callback(lambda _: stop.ask("a source ended"))
    try:
        await _serve(settings, [one for one in sources if isinstance(one, HttpSource)], intake, secrets, stop)
        if reading:
            await asyncio.gather(*reading)  # ended by the stop; raises if one ended by a fault
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        await intake.close()


def _sources(settings: EdgeSettings) -> list[Source]:
    sources = read_sources(settings.sources_file) if settings.sources_file is not None else []
    for source in sources:
        if isinstance(source, HttpSource) and source.verify == "none" and not settings.is_private:
            raise SettingsError(
                f"[http.{source.of.name}] verify is 'none', so whoever reaches {settings.listen} could start "
                "runs: that is for loopback alone."
            )
    return sources


async def _serve(
    settings: EdgeSettings, sources: Sequence[HttpSource], intake: Intake, secrets: Secrets, stop: Stop
) -> None:
    config = uvicorn.Config(
        application(sources, intake, secrets, at_once=settings.requests_at_once),
        http=patient_for(settings.header_timeout),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.requests_at_once * 4,  # of connections, idle ones too
        timeout_graceful_shutdown=max(1, int(settings.drain_grace)),
    )
    server = _Server(config)
    with _listening(settings.listen) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        host, port = listener.getsockname()[:2]
        announce("edge", f"{host}:{port}")
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        server.should_exit = True
        await serving


def _listening(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        return socket.create_server(
            (host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024
        )
    except OSError as error:
        raise Refused(f"The edge cannot listen on {address}: {error.strerror}.") from error


if __name__ == "__main__":
    sys.exit(run_service(main, settings=lambda: load(EdgeSettings, os.environ)))
