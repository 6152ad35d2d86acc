"""One service of the suite as a process: started until ready, stopped in order, or killed without any.

    stopped ──start──▶ starting ──ready──▶ running ──stop──▶ stopped
                           └─ended─▶ stopped   └──died──▶ died ──start──▶ …

Standard error goes to a file that the process writes itself or, if somebody watches, through a pipe of ours;
so does what agents print.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Final, NamedTuple

from holdfast.dev.error import SuiteError
from holdfast.dev.output import TAIL_LINES, Lines, Sink

START_PATIENCE_S: Final = 60.0
STOP_PATIENCE_S: Final = 20.0
_CHUNK: Final = 64 * 1024
_LAUNCHER: Final = Path(__file__).with_name("launch.py")


class Where(NamedTuple):
    """Where a process listens, and where it shows its metrics: empty if it does not."""

    address: str
    metrics: str


class ServiceProcess:
    """A service that listens at one address; started again, it listens at the same one."""

    def __init__(
        self,
        name: str,
        module: str,
        environment: Mapping[str, str],
        sink: Sink,
        *,
        log: Path | None = None,
        address: str = "127.0.0.1:0",
    ) -> None:
        self.name = name
        self.address = address
        self.metrics = ""
        self.starts = 0
        self.wanted = False  # it is meant to run: an end now is a death
        self._is_ready = False
        self._module = module
        self._environment = dict(environment)
        self._sink = sink
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._pumps: list[asyncio.Task[None]] = []
        self._stderr = Lines(name, sink)
        # One start at a time: two would fight for the address, and the loser kill the winner.
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int:
        """The process id now, or of the last life."""
        if self._process is None:
            raise SuiteError(f"{self.name} was never started.")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Tell whether the process lives."""
        return self._process is not None and self._process.returncode is None

    @property
    def starting(self) -> bool:
        """Tell whether somebody is starting it now."""
        return self._starting.locked()

    @property
    def ready(self) -> bool:
        """Tell whether it has said so in this life, and lives."""
        return self._is_ready and self.running

    @property
    def returncode(self) -> int | None:
        """How the last life ended; negative for a signal; None while it lives."""
        return self._process.returncode if self._process is not None else None

    def tail(self) -> str:
        """Return the last lines of its log."""
        if self._log is None:
            return self._stderr.tail()
        written = self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""
        return "\n".join(written.splitlines()[-TAIL_LINES:])

    async def start(self, patience: float = START_PATIENCE_S) -> None:
        """Start and wait until it is ready, at most `patience` seconds; nothing to do if it runs.

        Raises `SuiteError` with the end of its log; then the process is gone.
        """
        async with self._starting:
            if not self.running:
                await self._start(patience)

    async def revive(self, life: int) -> None:
        """Start it again, as `start`, unless it is not wanted any more or was started since `life` starts."""
        async with self._starting:
            if self.wanted and self.starts == life and not self.running:
                await self._start(START_PATIENCE_S)

    async def _start(self, patience: float) -> None:
        self.wanted = True
        ready: asyncio.Future[Where] = asyncio.get_running_loop().create_future()
        self._is_ready = False
        self._process = process = await self._launch()
        self.starts += 1
        assert process.stdout is not None
        self._pumps = [asyncio.create_task(self._read_output(process.stdout, ready))]
        if process.stderr is not None:
            self._pumps.append(asyncio.create_task(_pump(process.stderr, self._stderr)))
        try:
            problem = await self._until_ready(process, ready, patience)
            if problem is None:
                self.address, self.metrics = ready.result()
                self._is_ready = True
        except BaseException:
            await self.kill()
            raise
        if problem is not None:
            await self.kill()
            tail = self.tail()
            raise SuiteError(f"{self.name} {problem}" + (f":\n{tail}" if tail else "."))

    async def stop(self, patience: float = STOP_PATIENCE_S) -> None:
        """Ask it to end (SIGTERM) and wait; after `patience` seconds it is killed. Repeatable."""
        self.wanted = False
        self._signal(signal.SIGCONT)  # a paused one could not hear
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.exited(), patience)
        except TimeoutError:
            self._sink(self.name, f"{self.name} did not stop within {patience:.0f} s and is killed")
        finally:
            self._signal(signal.SIGKILL)
        await self.exited()

    async def kill(self) -> None:
        """Kill it (SIGKILL) and wait until it is gone; supervised, it comes back. Repeatable."""
        self._signal(signal.SIGKILL)
        await self.exited()

    def tell(self, variables: Mapping[str, str | None]) -> None:
        """Change its environment from its next start on; None takes a variable away."""
        for name, value in variables.items():
            if value is None:
                self._environment.pop(name, None)
            else:
                self._environment[name] = value

    async def restart(self) -> None:
        """Stop it in order and start it again."""
        async with self._starting:
            await self.stop()
            await self._start(START_PATIENCE_S)

    def pause(self) -> None:
        """Freeze it where it is (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen one go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    async def exited(self) -> int | None:
        """Wait until it has ended and all it wrote is read; return how it ended."""
        if self._process is None:
            return None
        code = await self._process.wait()
        if self._pumps:
            # A grandchild may hold the pipes open: what it writes is not ours to wait for.
            await asyncio.wait(self._pumps, timeout=1.0)
            for pump in self._pumps:
                pump.cancel()
        return code

    def _signal(self, number: signal.Signals) -> None:
        if self.running:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _launch(self) -> asyncio.subprocess.Process:
        with (
            self._log.open("ab") if self._log is not None else nullcontext(asyncio.subprocess.PIPE) as stderr
        ):
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                str(_LAUNCHER),
                str(os.getpid()),
                sys.executable,
                "-m",
                self._module,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                env={**self._environment, **self._addresses(), "HOLDFAST_DIE_WITH_PARENT": "1"},
            )

    def _addresses(self) -> dict[str, str]:
        """Return where it is to listen: where it has before, if it has."""
        shown = {"HOLDFAST_METRICS_LISTEN": self.metrics} if self.metrics else {}
        return {"HOLDFAST_LISTEN": self.address, **shown}

    async def _until_ready(
        self, process: asyncio.subprocess.Process, ready: "asyncio.Future[Where]", patience: float
    ) -> str | None:
        """Wait until it is ready, or return what happened instead."""
        ended = asyncio.create_task(process.wait())
        try:
            async with asyncio.timeout(patience):
                await asyncio.wait((ready, ended), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            return f"was not ready within {patience:.0f} s"
        finally:
            ended.cancel()
        return None if ready.done() else f"ended while starting (code {process.returncode})"

    async def _read_output(self, stream: asyncio.StreamReader, ready: "asyncio.Future[Where]") -> None:
        def take(name: str, line: str) -> None:
            if ready.done() or (where := _where(line)) is None:
                self._sink(name, line)
            else:
                ready.set_result(where)

        await _pump(stream, Lines(self.name, take))


async def _pump(stream: asyncio.StreamReader, lines: Lines) -> None:
    while chunk := await stream.read(_CHUNK):
        lines.feed(chunk)
    lines.end()


def _where(line: str) -> Where | None:
    """Return the addresses of a readiness line; None for any other line, which agents may print first."""
    if not line.startswith("{"):
        return None
    try:
        message = json.loads(line)
    except ValueError:
        return None
    if message.get("ready") is not True or "address" not in message:
        return None
    return Where(str(message["address"]), str(message.get("metrics", "")))
