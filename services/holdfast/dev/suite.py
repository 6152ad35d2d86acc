"""The whole suite on this machine: it stands when the block begins and is gone when it ends, however it ends.

    async with Suite(agents=["my_agents:app"]) as suite:
        async with Client(suite.invoker_addresses[0]) as client: …

Start order: PostgreSQL, migration, Invokers with Checkpoint, Approval and Dispatcher together, runners. The
kernel kills every process when the one that started it is killed.
"""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from holdfast.dev.console_secret import console_secret
from holdfast.dev.database import prepare
from holdfast.dev.error import SuiteError
from holdfast.dev.output import Sink, log_file, to_files
from holdfast.dev.plan import FOUNDATION, STOPPING, Plan, kind_of
from holdfast.dev.port import choose_addresses
from holdfast.dev.process import ServiceProcess
from holdfast.dev.watchdog import keep_running
from holdfast.embedded import EmbeddedError, EmbeddedPostgres

_NONE: Mapping[str, str] = MappingProxyType({})


class Suite:
    """PostgreSQL and all services as processes, with handles to kill, pause and restart each."""

    def __init__(
        self,
        agents: Sequence[str],
        *,
        database_url: str | None = None,
        data_directory: Path | None = None,
        ephemeral: bool = True,
        invokers: int = 1,
        runners: int = 1,
        console: bool = False,
        edge: bool = False,
        port: int = 0,
        environment: Mapping[str, str] = _NONE,
        environments: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
        modules: Mapping[str, str] = _NONE,
        supervise: bool = True,
        sink: Sink | None = None,
    ) -> None:
        """Plan a suite; nothing starts before the block.

        Without `database_url` it has a PostgreSQL of its own: ephemeral, or in `data_directory`.
        `environments` are by kind or process name (`{"runner-2": {…}}`), `modules` by kind what runs
        instead of the service's own. With `supervise` a service that
        dies is started again. `sink` takes the log lines; without one they go to files in `log_directory`,
        which is temporary. With `console` the web console is part of it,
        with `edge` what takes events from outside.
        """
        self.supervise = supervise
        self.processes: dict[str, ServiceProcess] = {}
        self.postgres: EmbeddedPostgres | None = None
        self.log_directory: Path | None = None
        self._plan = Plan(agents, invokers, runners, environment, environments, modules, console, edge)
        self._given_url = database_url
        self._data_directory = None if ephemeral else data_directory
        self._ephemeral = ephemeral
        self._port = port
        self._sink = sink
        self._url = ""
        self._watchdogs: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()

    @property
    def database_url(self) -> str:
        """The database as its owner sees it, who may do everything."""
        return self._url

    @property
    def addresses(self) -> dict[str, str]:
        """Where each process listens, by name."""
        return {name: process.address for name, process in self.processes.items()}

    @property
    def invoker_addresses(self) -> list[str]:
        """Where the Invokers listen."""
        return [process.address for process in self._of_kind("invoker")]

    @property
    def runners(self) -> list[ServiceProcess]:
        """The runners."""
        return self._of_kind("runner")

    def log(self, name: str) -> str:
        """Return what a process has logged so far; its last lines where the log goes to a sink."""
        if self.log_directory is None:
            return self.processes[name].tail()
        path = log_file(self.log_directory, name)
        return path.read_text(encoding="utf-8") if path.exists() else ""

    async def start(self) -> None:
        """Bring everything up; on any failure nothing is left running. Raises `SuiteError`."""
        try:
            await self._start()
        except EmbeddedError as error:
            await self.stop()
            raise SuiteError(str(error)) from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Take everything down in order: runners hand their leases back first, PostgreSQL goes last."""
        for watchdog in self._watchdogs:
            watchdog.cancel()
        await asyncio.gather(*self._watchdogs, return_exceptions=True)
        self._watchdogs.clear()
        try:
            for kind in STOPPING:
                await asyncio.gather(*(process.stop() for process in self._of_kind(kind)))
        finally:
            await asyncio.gather(*(process.kill() for process in self.processes.values()))
            await self._stack.aclose()
            self.postgres = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _start(self) -> None:
        addresses = choose_addresses(self._port, self._plan.names())
        sink = self._sink or self._files()
        self._url = self._given_url or await self._own_database()
        urls = await prepare(self._url, may_log_in=self._given_url is None)
        foundation = [name for name in self._plan.names() if kind_of(name) in FOUNDATION]
        for name in foundation:
            own = {"HOLDFAST_DATABASE_URL": urls[kind_of(name)], **self._plan.local_ease(name)}
            self._add(name, own, addresses[name], sink)
        await _all_of(*(self.processes[name].start() for name in foundation))
        checkpoint, approval = (self.processes[name].address for name in ("checkpoint", "approval"))
        own = self._plan.runner_environment(self.invoker_addresses, checkpoint, approval)
        for name in self._plan.names():
            if kind_of(name) == "runner":
                self._add(name, own, addresses[name], sink)
        if "console" in addresses:
            told = self._plan.console_environment(
                self.invoker_addresses, self.addresses, console_secret(self._data_directory)
            )
            self._add("console", told, addresses["console"], sink)
        if "edge" in addresses:
            told = {"HOLDFAST_INVOKER_ADDRESS": ",".join(self.invoker_addresses)}
            self._add("edge", told, addresses["edge"], sink)
        last = (*self.runners, *self._of_kind("console"), *self._of_kind("edge"))
        await _all_of(*(process.start() for process in last))
        if self.supervise:
            self._watchdogs = [asyncio.create_task(keep_running(p, sink)) for p in self.processes.values()]

    def _add(self, name: str, own: Mapping[str, str], address: str, sink: Sink) -> None:
        told = self._plan.environment_of(name, own)
        module = self._plan.module_of(name)
        log = log_file(self.log_directory, name) if self.log_directory is not None else None
        self.processes[name] = ServiceProcess(name, module, told, sink, log=log, address=address)

    async def _own_database(self) -> str:
        server = EmbeddedPostgres(self._data_directory, ephemeral=self._ephemeral)
        self.postgres = await self._stack.enter_async_context(server)
        await server.create_database("holdfast")
        return server.url("holdfast")

    def _files(self) -> Sink:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-log-"))
        self.log_directory = Path(folder)
        return to_files(self.log_directory)

    def _of_kind(self, kind: str) -> list[ServiceProcess]:
        return [process for name, process in self.processes.items() if kind_of(name) == kind]


async def _all_of(*starts: "asyncio._CoroutineLike[None]") -> None:
    """Await all; the first failure is raised once all have come to their end."""
    results = await asyncio.gather(*starts, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
