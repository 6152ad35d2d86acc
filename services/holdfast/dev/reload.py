"""When the agents' code changes, the runners take it up; everything else goes on."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from watchfiles import PythonFilter, awatch

from holdfast.dev.error import SuiteError
from holdfast.dev.output import Sink
from holdfast.dev.process import ServiceProcess


async def reload_on_change(runners: Sequence[ServiceProcess], folders: Sequence[Path], sink: Sink) -> None:
    """Restart the runners, in order and gracefully, whenever Python code below `folders` changes.

    Code that does not start leaves the runner down until the next change.
    """
    async for changes in awatch(*folders, watch_filter=PythonFilter(), recursive=True):
        changed = ", ".join(sorted({Path(path).name for _, path in changes})[:3])
        for runner in runners:
            sink(runner.name, f"{changed} changed: {runner.name} is started again")
            try:
                await runner.restart()
            except SuiteError as error:
                runner.wanted = False
                sink(runner.name, f"{error}\n{runner.name} stays down until the code changes again")


def agent_folders(agents: Iterable[str]) -> list[Path]:
    """Return what to watch for the named agents (`module:app`): their packages, or a lone module's file.

    Modules are looked for on the path, without importing them.
    """
    found: set[Path] = set()
    for agent in agents:
        parts = agent.partition(":")[0].split(".")
        file = _module_file(parts)
        if file is not None:
            found.add(file if len(parts) == 1 and file.name != "__init__.py" else file.parent)
    return sorted(found)


def is_importable(agent: str) -> bool:
    """Tell whether the module of `module:app` can be found."""
    return _module_file(agent.partition(":")[0].split(".")) is not None


def _module_file(parts: Sequence[str]) -> Path | None:
    for root in (str(Path.cwd()), *sys.path):
        place = Path(root or ".", *parts)
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                return file.resolve()
    return None
