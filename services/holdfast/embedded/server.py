"""A real PostgreSQL 18 for as long as its parent lives: started, watched, started again, stopped in order.

starting ──ready──▶ up ──stop──▶ down
    ▲                │
    └─ended by itself┘
"""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlencode

import asyncpg

from holdfast.embedded.account import choose_account
from holdfast.embedded.binaries import Binaries, find_binaries
from holdfast.embedded.cluster import SUPERUSER, ensure_cluster
from holdfast.embedded.directory import DataDirectory, open_ephemeral, open_persistent
from holdfast.embedded.error import EmbeddedError, StartError
from holdfast.embedded.leftover import kill_leftovers
from holdfast.embedded.process import end, launch
from holdfast.embedded.settings import PORT, server_options

_log = logging.getLogger(__name__)

_START_PATIENCE_S = 120.0  # recovery after a crash replays up to max_wal_size
_POLL_S = 0.02
_LONGEST_PAUSE_S = 5.0


def default_data_directory() -> Path:
    """Return where data goes when nobody says: root's in /var/lib, a user's in their own data folder."""
    if os.geteuid() == 0:
        return Path("/var/lib/holdfast/postgres")
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data, "holdfast", "postgres")


class EmbeddedPostgres:
    """A PostgreSQL of our own: `async with EmbeddedPostgres(directory) as server: … server.url()`.

    It listens on a unix socket only, in a folder that only its account (and root) can enter. When the parent
    ends in whatever way, so does it; when it ends by itself, it is started again and recovers. Without a
    directory it uses `default_data_directory()`; an ephemeral one uses a temporary directory and leaves
    nothing behind (what a killed parent leaves is removed at the next ephemeral start). `settings` override
    the server's own, by PostgreSQL's names.

    Start it from the main thread: the kernel ends it when the thread that started it ends.
    """

    def __init__(
        self,
        data_directory: Path | None = None,
        *,
        ephemeral: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        if ephemeral and data_directory is not None:
            raise ValueError("An ephemeral PostgreSQL has no data directory to name.")
        self._wanted = None if ephemeral else data_directory or default_data_directory()
        self._settings = dict(settings or {})
        self._up = asyncio.Event()
        self._directory: DataDirectory | None = None
        self._binaries: Binaries | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def data_directory(self) -> Path:
        """The directory in use."""
        return self._opened.path

    @property
    def pid(self) -> int:
        """The process id of the server now; another one after it was started again."""
        if self._process is None:
            raise EmbeddedError("The embedded PostgreSQL is not running.")
        return self._process.pid

    def url(self, database: str = "holdfast") -> str:
        """Return the URL of a database, as psql and asyncpg understand it; it holds for every restart."""
        query = urlencode({"host": self._opened.sockets, "port": PORT}, quote_via=quote, safe="/")
        return f"postgresql://{SUPERUSER}@/{quote(database, safe='')}?{query}"

    async def start(self) -> None:
        """Start and wait until connections are taken.

        Raises `DirectoryInUseError`, `StartError` with the end of PostgreSQL's log, or another
        `EmbeddedError`; then nothing is left running or locked.
        """
        if sys.platform != "linux":
            raise EmbeddedError("The embedded PostgreSQL needs Linux; use --database-url instead.")
        if threading.current_thread() is not threading.main_thread():
            raise EmbeddedError("The embedded PostgreSQL must be started from the main thread.")
        account = choose_account(self._wanted)
        if self._wanted is None:
            self._directory = await asyncio.to_thread(open_ephemeral, account)
        else:
            self._directory = await asyncio.to_thread(open_persistent, self._wanted, account)
        try:
            self._binaries = await asyncio.to_thread(find_binaries, account)
            await ensure_cluster(self._binaries, self._directory)
            await self._start_server()
        except BaseException:
            await self.stop()
            raise
        self._supervisor = asyncio.create_task(self._supervise(), name="embedded-postgres")

    async def stop(self) -> None:
        """Stop in order: sessions are ended, the log is flushed, the directory is free. Repeatable."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
            self._supervisor = None
        directory, self._directory = self._directory, None
        if directory is None:
            return
        try:
            await self._end_server()
            await asyncio.to_thread(kill_leftovers, directory.cluster)
        finally:
            await asyncio.to_thread(directory.release)

    async def ready(self, deadline_s: float = _START_PATIENCE_S) -> None:
        """Wait until the server takes connections; `TimeoutError` after `deadline_s` seconds."""
        await asyncio.wait_for(self._up.wait(), deadline_s)

    async def restart(self) -> None:
        """Stop the server in order and wait until it is back; sessions are lost."""
        self._up.clear()
        os.kill(self.pid, signal.SIGINT)
        await self.ready()

    async def kill(self) -> None:
        """Kill the server with SIGKILL, as a test of what depends on it; `ready` waits for its return."""
        self._up.clear()
        os.kill(self.pid, signal.SIGKILL)

    async def create_database(self, name: str, template: str | None = None) -> bool:
        """Create a database unless it is there, and tell whether it was created; `template` must be idle."""
        copied = f" TEMPLATE {_quoted(template)}" if template else ""
        try:
            await self._command(f"CREATE DATABASE {_quoted(name)}{copied}")
        except asyncpg.DuplicateDatabaseError:
            return False
        return True

    async def drop_database(self, name: str) -> None:
        """Drop a database and end its sessions; repeatable."""
        await self._command(f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def _opened(self) -> DataDirectory:
        if self._directory is None:
            raise EmbeddedError("The embedded PostgreSQL is not running.")
        return self._directory

    async def _command(self, sql: str) -> None:
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def _start_server(self) -> None:
        """Start the server process and wait until it answers; a `StartError` leaves none behind."""
        directory = self._opened
        await asyncio.to_thread(directory.clear_the_way)
        # SIGQUIT: ends all sessions at once. What was committed is in the log, the next start replays it.
        self._process = await launch(self._server_command(), directory, death_signal=signal.SIGQUIT)
        try:
            await self._until_it_answers(self._process)
        except BaseException:
            await self._end_server()
            raise
        self._up.set()

    def _server_command(self) -> list[str]:
        assert self._binaries is not None
        options = server_options(self._opened.sockets, self._settings)
        return [str(self._binaries.postgres), "-D", str(self._opened.cluster), *options]

    async def _until_it_answers(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(_START_PATIENCE_S):
                while not await self._answers():
                    if process.returncode is not None:
                        tail = self._opened.log_tail()
                        raise StartError(
                            f"PostgreSQL ended while starting (code {process.returncode}):", tail
                        )
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            tail = self._opened.log_tail()
            raise StartError(f"PostgreSQL did not answer within {_START_PATIENCE_S:.0f} s:", tail) from None

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url("postgres"), timeout=_START_PATIENCE_S)
        except (OSError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError):
            # No socket yet, recovery is not over, or it ended just now.
            return False
        await connection.close()
        return True

    async def _end_server(self) -> None:
        self._up.clear()
        process, self._process = self._process, None
        if process is not None:
            await end(process, (signal.SIGINT, 10.0), (signal.SIGQUIT, 6.0))

    async def _supervise(self) -> None:
        """Start the server again whenever it ends by itself, for as long as that takes."""
        pause_s = 0.1
        while True:
            if self._process is not None:
                code = await self._process.wait()
                self._up.clear()
                _log.warning("PostgreSQL ended (code %s) and is started again", code)
            try:
                await self._start_server()
                pause_s = 0.1
            except (EmbeddedError, OSError):
                _log.exception("PostgreSQL does not start; next attempt in %.1f s", pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
