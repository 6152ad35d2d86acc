"""A service process starts, says that it is ready, drains on SIGTERM, and its exit code says how it ended.

Exit codes: 0 stopped as asked, 1 failed, 2 refused its settings or its address, 130/143 killed by a second
signal.
"""

import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import uvloop

from holdfast.kit.settings import MissingSettingError, SettingsError, print_config
from holdfast.kit.telemetry import logs

_log: Final = logs.logger("process")

FAILED: Final = 1
REFUSED: Final = 2
_PR_SET_PDEATHSIG: Final = 1
# Trim threshold, top pad and mmap threshold, as <malloc.h> numbers them; setting one ends their adjustment.
_MALLOC: Final = ((-1, 64 << 20), (-2, 4 << 20), (-3, 16 << 20))


class Refused(Exception):  # noqa: N818 - not an error of the program
    """The process cannot start as it was asked to; the text is one sentence for the operator."""


class Stop(asyncio.Event):
    """Set when the process is asked to end. Also says which signal asked, for the log."""

    cause = ""

    def ask(self, cause: str) -> None:
        """Ask the process to end; repeatable, the first cause counts."""
        if not self.is_set():
            self.cause = cause
            self.set()


def run_service(
    main: Callable[[Stop], Awaitable[None]],
    *,
    settings: object | Callable[[], object] | None = None,
    arguments: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Run `main` until it returns, and return the exit code for `sys.exit`.

    SIGTERM and SIGINT set the `Stop` that `main` gets; a second one ends the process at once. With
    `--print-config` among the arguments, `settings` (or what it returns) is printed and nothing is started.
    `HOLDFAST_DIE_WITH_PARENT=1` makes the kernel kill this process when its parent dies (Linux).
    """
    asked = sys.argv[1:] if arguments is None else arguments
    variables = os.environ if environ is None else environ
    try:
        if "--print-config" in asked:
            return _print_config(settings)
        if variables.get("HOLDFAST_DIE_WITH_PARENT") == "1":
            die_with_parent()
        # About a tenth less CPU time and latency than the loop of the standard library (docs/adr/0011).
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(main))
    except (SettingsError, Refused) as refusal:
        sys.stderr.write(f"{refusal}\n")
        return REFUSED


def _print_config(settings: object) -> int:
    """Print the settings; where one is missing, those that there are, and say which."""
    try:
        sys.stdout.write(print_config(settings() if callable(settings) else settings) + "\n")
    except MissingSettingError as refusal:
        sys.stdout.write(refusal.shown + "\n")
        raise
    return 0


def announce(service: str, address: str, **more: object) -> None:
    """Print the readiness line on standard output: a program that started this process waits for it."""
    sys.stdout.write(json.dumps({"ready": True, "service": service, "address": address, **more}) + "\n")
    sys.stdout.flush()


def die_with_parent() -> None:
    """Have the kernel send SIGKILL when the parent dies; elsewhere than on Linux, do nothing.

    If the parent died before this call, the process ends here.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _collect_seldom() -> None:
    """Leave what was imported out of every collection, and collect less often.

    A service makes many short-lived messages and few cycles: with the interpreter's thresholds a tenth of its
    CPU time went into looking for them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _keep_memory() -> None:
    """Have glibc keep what is freed, up to 64 MiB, for the next call; elsewhere, do nothing.

    The memory of each call was given back to the kernel and taken anew, page by page (docs/adr/0047).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, size in _MALLOC:
            mallopt(option, size)


async def _run(main: Callable[[Stop], Awaitable[None]]) -> int:
    stop = Stop()
    loop = asyncio.get_running_loop()

    def asked(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)  # a person insists: no drain, no clean-up
        _log.info("stopping", signal=number.name)
        stop.ask(number.name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)
    _collect_seldom()
    _keep_memory()
    try:
        await main(stop)
    except (SettingsError, Refused):
        raise
    except Exception as error:  # noqa: BLE001 - the last frame: what came up to here ends the process
        _log.error("service failed", error=error)
        return FAILED
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    _log.info("stopped", cause=stop.cause or "its work ended")
    return 0
