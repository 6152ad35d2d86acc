"""Runs the console: `python -m holdfast.console`."""

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from holdfast.console.app import application
from holdfast.console.settings import ConsoleSettings
from holdfast.kit.process import Refused, Stop, announce, run_service
from holdfast.kit.settings import load
from holdfast.kit.telemetry.logs import configure


class _Server(uvicorn.Server):
    """Leaves signals to the process, which asks it to end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signal."""
        yield


async def main(stop: Stop) -> None:
    """Serve pages until told to stop."""
    settings = load(ConsoleSettings, os.environ)
    configure("console")
    config = uvicorn.Config(
        application(settings, stop),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, int(settings.drain_grace)),
    )
    server = _Server(config)
    with _listening(settings.listen) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        host, port = listener.getsockname()[:2]
        announce("console", f"{host}:{port}")
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
            (host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=256
        )
    except OSError as error:
        raise Refused(f"The console cannot listen on {address}: {error.strerror}.") from error


if __name__ == "__main__":
    sys.exit(run_service(main, settings=lambda: load(ConsoleSettings, os.environ)))
