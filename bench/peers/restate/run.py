"""Restate answers the benchmark's questions: its server with default settings, and a Python service.

Its defaults are durable (the log server syncs its write-ahead log). The service runs on granian, which here
served a third more runs a second than hypercorn; a second service process made it slower.
"""

import asyncio
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import uvloop

from bench.measure import WARM_UP_RUNS, Meter, tree_cpu_ticks
from bench.peers.restate.ingress import Lane, call_many, register
from bench.protocol import Question, answer, decline, read_question

WARM_UP_CALLS = 200
READY_SECONDS = 60.0


def server_binary() -> Path | None:
    """Find the server's binary among what npm installed, if there is one for this machine."""
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    package = f"restate-server-{platform.system().lower()}-{machine}"
    binary = Path(os.environ["BENCH_HOME"]) / "node_modules/@restatedev" / package / "bin/restate-server"
    return binary if binary.exists() else None


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on now; another process may still be faster."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


@dataclass(frozen=True)
class Stack:
    """A server and its service processes, ready to be called."""

    ingress_port: int
    server: subprocess.Popen[bytes]
    services: list[subprocess.Popen[bytes]]


def start_server(binary: Path, folder: Path, ports: list[int]) -> subprocess.Popen[bytes]:
    """Start the server with an empty store; only addresses and telemetry differ from its defaults."""
    ingress, admin, node = (f"127.0.0.1:{port}" for port in ports)
    settings = {
        "RESTATE_INGRESS__BIND_ADDRESS": ingress,
        "RESTATE_ADMIN__BIND_ADDRESS": admin,
        "RESTATE_BIND_ADDRESS": node,
        "RESTATE_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }
    command = [
        str(binary),
        "--base-dir",
        str(folder / "data"),
        "--node-name",
        "bench",
        "--no-logo",
        "--listen-mode",
        "tcp",
    ]
    with (folder / "server.log").open("wb") as log:
        return subprocess.Popen(command, env=os.environ | settings, cwd=folder, stdout=log, stderr=log)


def start_service(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start a service process; several may share a port, the kernel then spreads the connections."""
    command = [sys.executable, "-m", "granian", "--interface", "asgi", "--http", "2", "--no-ws"]
    command += ["--host", "127.0.0.1", "--port", str(port), "bench.peers.restate.service:app"]
    with (folder / "service.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def kill_service(service: subprocess.Popen[bytes]) -> None:
    """Kill a service process with its worker, which would outlive it."""
    for pid in tree_cpu_ticks(service.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    service.wait()


@contextmanager
def stack(binary: Path, services: int = 1) -> Iterator[Stack]:
    """Start server and services, wait until both answer, and leave nothing behind."""
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("BENCH_SCRATCH")))
    ingress, admin, node, service_port = free_ports(4)
    server = start_server(binary, folder, [ingress, admin, node])
    started = [start_service(folder, service_port) for _ in range(services)]
    try:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                register(admin, service_port)
                uvloop.run(call_many(ingress, "w2", 1, 1))
                break
            except (URLError, OSError, RuntimeError) as error:
                if time.monotonic() > deadline:
                    log = (folder / "server.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"Restate was not ready in {READY_SECONDS:.0f} s: {log}") from error
                time.sleep(0.2)
        yield Stack(ingress, server, started)
    finally:
        for service in started:
            kill_service(service)
        server.kill()
        server.wait()
        shutil.rmtree(folder)


def throughput(question: Question, binary: Path) -> None:
    """Answer how many runs a second, and at what CPU time."""
    with stack(binary) as up:
        meter = Meter({"restate-server": up.server.pid, "service": up.services[0].pid})
        for runs in (WARM_UP_RUNS, question.runs):
            meter.start()
            uvloop.run(call_many(up.ingress_port, question.workload, runs, question.concurrency))
        answer(**meter.read(question.runs))


def latency(question: Question, binary: Path) -> None:
    """Answer how long single runs take, one after another."""
    with stack(binary) as up:
        calls = WARM_UP_CALLS + question.runs
        latencies = uvloop.run(call_many(up.ingress_port, question.workload, calls, 1))
        answer(latencies_ms=latencies[WARM_UP_CALLS:])


async def call_interrupted(port: int, journal: Path) -> None:
    """Invoke the handler that hangs until its process is killed."""
    async with Lane(port) as lane:
        await lane.call("interrupted", str(journal))


def interrupt(up: Stack, journal: Path) -> float:
    """Kill the service process that executes a run; return the seconds until another is at its step."""
    with ThreadPoolExecutor(1) as caller:
        call = caller.submit(asyncio.run, call_interrupted(up.ingress_port, journal))
        while not (journal.exists() and journal.read_text().endswith("\n")):
            time.sleep(0.01)
        holder = int(journal.read_text().split()[0])
        killed = time.monotonic()
        kill_service(next(s for s in up.services if holder in tree_cpu_ticks(s.pid)))
        call.result()
    return float(journal.read_text().splitlines()[1].split()[1]) - killed


def recovery(binary: Path) -> None:
    """Answer how long a run stands still when its service process is killed and a second one waits."""
    with stack(binary, services=2) as up, tempfile.TemporaryDirectory() as folder:
        answer(recovery_s=round(interrupt(up, Path(folder) / "journal"), 3))


def main() -> None:
    """Answer the question on the command line."""
    question = read_question()
    binary = server_binary()
    if binary is None:
        decline(f"npm ships no Restate server for {platform.system()} on {platform.machine()}.")
    if question.repeatable:
        decline("Restate has no step that may run again: its ordinary latency is the one to compare with.")
    if question.measure == "events":
        decline("Its queue is its own: this case compares queues on PostgreSQL.")
    if question.measure == "claim-depth":
        decline("This case measures our ledger alone.")
    if question.measure == "recovery":
        recovery(binary)
    else:
        {"throughput": throughput, "latency": latency}[question.measure](question, binary)


if __name__ == "__main__":
    main()
