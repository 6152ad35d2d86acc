"""Webhooks over HTTP, until told to stop; requests under way are answered first."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import uvicorn

from holdfast.edge.app import application
from holdfast.edge.connection import patient_for
from holdfast.edge.intake import Intake
from holdfast.edge.settings import EdgeSettings
from holdfast.edge.source import HttpSource
from holdfast.kit.process import Refused
from holdfast.kit.secret import Secrets


class _Server(uvicorn.Server):
    """Leaves signals to the process, which asks it to end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signal."""
        yield


async def serve(
    settings: EdgeSettings,
    sources: Sequence[HttpSource],
    intake: Intake,
    secrets: Secrets,
    *,
    stop: asyncio.Event,
    ready: Callable[[str], None],
) -> None:
    """Serve until `stop`; `ready` is told where. Raises `Refused` if it cannot listen."""
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
        ready(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
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
