"""`holdfast dev`: the suite in the foreground, until Ctrl-C; nothing is left running afterwards."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from holdfast.dev.error import SuiteError
from holdfast.dev.log_line import readable
from holdfast.dev.output import Sink
from holdfast.dev.record import FOLDER, remove_record, write_record
from holdfast.dev.reload import agent_folders, is_importable, reload_on_change
from holdfast.dev.suite import Suite
from holdfast.embedded import EmbeddedError, default_data_directory
from holdfast.embedded.account import choose_account

EXAMPLE: Final = "examples.support_triage:app"
METRICS: Final = "HOLDFAST_METRICS_LISTEN"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the person asked for; `database_url` None means a PostgreSQL of our own."""

    agents: Sequence[str] = ()
    port: int = 7401
    database_url: str | None = None
    data_directory: Path | None = None
    ephemeral: bool = False
    reload: bool = True
    runners: int = 1


async def run_foreground(wishes: Wishes, show: Callable[[dict[str, Any]], None]) -> None:
    """Bring the suite up, `show` where it is, and keep it up until SIGINT or SIGTERM.

    A second signal ends this process at once, and the kernel ends the others. Raises `SuiteError` when the
    suite cannot stand.
    """
    stop = _stop_on_signals()
    sink = _standard_error()
    _log_to(sink)
    agents = _agents(wishes.agents)
    suite = Suite(
        agents,
        database_url=wishes.database_url,
        data_directory=_data_directory(wishes, sink),
        ephemeral=wishes.ephemeral,
        runners=wishes.runners,
        port=wishes.port,
        console=True,
        environment={METRICS: "127.0.0.1:0"},  # each at a port of its own, whatever the environment says
        edge=True,
        sink=sink,
    )
    if not await _started(suite, stop):
        return
    record = None
    reloading = None
    try:
        where = describe(suite)
        if wishes.reload and (folders := agent_folders(agents)):
            reloading = asyncio.create_task(reload_on_change(suite.runners, folders, sink))
            await _begun(reloading)
        record = write_record(Path.cwd() / FOLDER, where)
        show(where)
        await stop.wait()
    finally:
        if reloading is not None:
            reloading.cancel()
            await asyncio.gather(reloading, return_exceptions=True)
        if record is not None:
            remove_record(record)
        await suite.stop()


def describe(suite: Suite) -> dict[str, Any]:
    """Return where everything is, as programs read it."""
    kinds = {name: address for name, address in suite.addresses.items() if name != "invoker"}
    for front in kinds.keys() & {"console", "edge"}:
        kinds[front] = f"http://{kinds[front]}"
    return {
        "grpc": suite.addresses["invoker"],
        **kinds,
        "database_url": suite.database_url,
        "metrics": {
            name: f"http://{process.metrics}/metrics"
            for name, process in suite.processes.items()
            if process.metrics
        },
        "pids": {name: process.pid for name, process in suite.processes.items()},
    }


async def _started(suite: Suite, stop: asyncio.Event) -> bool:
    """Start the suite, unless somebody asks to stop before it stands."""
    starting = asyncio.create_task(suite.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return False
    starting.result()
    return True


async def _begun(task: "asyncio.Task[None]") -> None:
    """Let a task and those it makes take their first steps: then the watchers watch."""
    for _ in range(3):
        if not task.done():
            await asyncio.sleep(0)


def _agents(named: Sequence[str]) -> list[str]:
    if named:
        return list(named)
    if is_importable(EXAMPLE):
        return [EXAMPLE]
    raise SuiteError("No agents are named: say which with --agents module:app.")


def _data_directory(wishes: Wishes, sink: Sink) -> Path | None:
    """Return where the data goes: beside the work, or, as root in a folder closed to others, elsewhere."""
    if wishes.ephemeral or wishes.database_url:
        return None
    if wishes.data_directory is not None:
        return wishes.data_directory
    wanted = Path.cwd() / FOLDER / "postgres"
    try:
        if choose_account(wanted).can_reach(wanted):
            return wanted
    except EmbeddedError as error:
        raise SuiteError(str(error)) from error
    elsewhere = default_data_directory()
    sink("postgres", f"PostgreSQL does not run as root and cannot enter {Path.cwd()}: data is in {elsewhere}")
    return elsewhere


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()

    def asked(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked, number)
    return stop


def _standard_error() -> Sink:
    form = readable if sys.stderr.isatty() else _json_line

    def write(name: str, line: str) -> None:
        sys.stderr.write(form(name, line) + "\n")
        sys.stderr.flush()

    return write


def _json_line(name: str, line: str) -> str:
    """Return a line as it came if it is JSON, and otherwise as JSON: a program reads these."""
    return line if line.startswith("{") else json.dumps({"service": name, "event": line}, ensure_ascii=False)


def _log_to(sink: Sink) -> None:
    """Show what the embedded PostgreSQL's supervisor says."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            sink("postgres", record.getMessage())

    logging.getLogger("holdfast.embedded").addHandler(Handler())
