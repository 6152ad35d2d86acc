"""When the agents' code changes, the runners take it up; everything else goes on."""

import asyncio
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from watchfiles import PythonFilter, awatch

from holdfast.dev.error import SuiteError
from holdfast.dev.output import Sink
from holdfast.dev.process import ServiceProcess


@dataclass(frozen=True, order=True, slots=True)
class CodeFolder:
    """A folder with code of agents: a package with all below it, or just the modules beside a lone one.

    Folders are watched, not files: editors replace a file by another of its name.
    """

    path: Path
    is_package: bool


async def reload_on_change(
    runners: Sequence[ServiceProcess], folders: Sequence[CodeFolder], sink: Sink
) -> None:
    """Restart the runners, in order and gracefully, whenever Python code in `folders` changes.

    Code that does not start leaves the runner down until the next change. Once this task has run its first
    step, no change is missed.
    """
    changed: asyncio.Queue[str] = asyncio.Queue()
    watchers = [asyncio.ensure_future(_watch(folder, changed)) for folder in folders]
    try:
        while True:
            names = {await changed.get()}
            while not changed.empty():
                names.add(changed.get_nowait())
            for runner in runners:
                await _take_up(runner, ", ".join(sorted(names)[:3]), sink)
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)


def agent_folders(agents: Iterable[str]) -> list[CodeFolder]:
    """Return where the code of the named agents (`module:app`) is, found on the path without importing it."""
    found: set[CodeFolder] = set()
    for agent in agents:
        parts = agent.partition(":")[0].split(".")
        file = _module_file(parts)
        if file is not None:
            found.add(CodeFolder(file.parent, is_package=len(parts) > 1 or file.name == "__init__.py"))
    return sorted(found)


def is_importable(agent: str) -> bool:
    """Tell whether the module of `module:app` can be found."""
    return _module_file(agent.partition(":")[0].split(".")) is not None


async def _watch(folder: CodeFolder, changed: "asyncio.Queue[str]") -> None:
    async for changes in awatch(folder.path, watch_filter=PythonFilter(), recursive=folder.is_package):
        for _, path in changes:
            changed.put_nowait(Path(path).name)


async def _take_up(runner: ServiceProcess, names: str, sink: Sink) -> None:
    sink(runner.name, f"{names} changed: {runner.name} is started again")
    try:
        await runner.restart()
    except SuiteError as error:
        runner.wanted = False
        sink(runner.name, f"{error}\n{runner.name} stays down until the code changes again")


def _module_file(parts: Sequence[str]) -> Path | None:
    for root in (str(Path.cwd()), *sys.path):
        place = Path(root or ".", *parts)
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                return file.resolve()
    return None
