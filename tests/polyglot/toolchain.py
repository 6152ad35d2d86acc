"""Programs in other languages, built as README.md and docs/stubs.md say, outside of what git keeps.

Each language has a folder under `.cache/polyglot` that looks as the README wants it: `protos/` and `gen/` in
it, the README's lines typed as they stand, and the first client of docs/stubs.md. It is built once for
each change of what it is made of, by whoever comes first; the others wait. A toolchain or a registry that
cannot be had here is `UnavailableError`; any other failure is an error.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = Path(__file__).parent
CACHE: Final = ROOT / ".cache/polyglot"
README: Final = ROOT / "README.md"
STUBS: Final = ROOT / "docs/stubs.md"
PATIENCE_S: Final = 900.0

_AWAY: Final = re.compile(
    r"dial tcp|no such host|ENOTFOUND|ECONNREFUSED|ETIMEDOUT|ECONNRESET|EAI_AGAIN|"
    r"npm error code E(401|403|5\d\d)|Could not transfer|Connection refused|Unknown host|Connect timed out|"
    r"failed to download|failed to fetch|download of .* failed|Temporary failure|"
    r"module lookup disabled|ENOTCACHED|in offline mode|--offline was specified|"
    r"403 Forbidden|i/o timeout|requires go >=|toolchain not available|requires rustc"
)
"""What the package managers say when it is the registry, or the toolchain's age, that keeps them.

Not that a registry has no such version: then it is a pin of ours that is wrong.
"""
_LAST: Final = 25
"""Lines in which the command that failed says why; those before may warn of what went well in the end."""


class UnavailableError(Exception):
    """A toolchain or its registry cannot be had on this machine; the text says which and why."""


@dataclass(frozen=True)
class Language:
    """How a language is built in its folder, and how what was built is started."""

    name: str
    tools: tuple[str, ...]
    lay_out: Callable[[Path], None]
    script: str
    shown: str
    programs: Mapping[str, tuple[str, ...]]

    @property
    def folder(self) -> Path:
        """Where it is built."""
        return CACHE / self.name


def block(page: Path, heading: str, opening: str, number: int = 0) -> str:
    """Return a fenced block as it stands on a page: under a heading, the nth that opens with this."""
    text = page.read_text()
    start = re.search(rf"^(#+ |\*\*){re.escape(heading)}", text, re.MULTILINE)
    assert start, f"{page.name} has no {heading!r}"
    found = re.findall(r"^```(\w*)\n(.*?)^```", text[start.start() :], re.MULTILINE | re.DOTALL)
    return str([body for kind, body in found if kind == opening][number])


def section(page: Path, heading: str) -> str:
    """Return what stands under a heading of a page."""
    pattern = rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)"
    found = re.search(pattern, page.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no {heading!r}"
    return found[1]


def build(language: Language) -> Path:
    """Build a language's programs unless they are there; return its folder. Raises `UnavailableError`."""
    for tool in language.tools:
        if shutil.which(tool) is None:
            raise UnavailableError(f"{language.name}: there is no {tool} on this machine")
    language.folder.mkdir(parents=True, exist_ok=True)
    with _alone(language.folder / ".lock"):
        stamp = language.folder / ".built"
        wanted = _digest(language)
        if not stamp.exists() or stamp.read_text() != wanted:
            stamp.unlink(missing_ok=True)
            _lay_out(language)
            _run(language)
            stamp.write_text(wanted)
    return language.folder


def program(language: Language, name: str) -> list[str]:
    """Return how one of a language's programs is started in its folder."""
    return list(language.programs[name])


def environment(language: Language) -> dict[str, str]:
    """Return the environment for a language's tools: what they install for all stays in its folder."""
    installed = language.folder / "bin"
    return {**os.environ, "GOBIN": str(installed), "PATH": f"{installed}:{os.environ['PATH']}"}


def _lay_out(language: Language) -> None:
    for name in ("protos", "gen", "buf.yaml", ".venv"):
        link = language.folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT / name)
    language.lay_out(language.folder)


def _run(language: Language) -> None:
    began = time.monotonic()
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", language.script],
        cwd=language.folder,
        env=environment(language),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=PATIENCE_S,
        check=False,
    )
    if done.returncode == 0:
        return
    away = away_line(done.stdout)
    if away:
        raise UnavailableError(f"{language.name}: {away}")
    took = time.monotonic() - began
    raise AssertionError(f"{language.name} was not built, after {took:.0f} s:\n{done.stdout[-6000:]}")


def away_line(printed: str) -> str:
    """Return the line in which a tool says that a registry or toolchain cannot be had, empty if none does."""
    last = printed.splitlines()[-_LAST:]
    return next((line.strip()[:300] for line in last if _AWAY.search(line)), "")


def _digest(language: Language) -> str:
    """Return what a build depends on: the contract, the recipe, our sources, and what the docs show."""
    made = hashlib.sha256(language.script.encode() + language.shown.encode())
    sources = (path for path in (SOURCES / language.name).rglob("*") if path.is_file())
    for path in sorted([ROOT / "gen/holdfast.binpb", *sources]):
        made.update(path.name.encode() + b"\0" + path.read_bytes())
    return made.hexdigest()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
