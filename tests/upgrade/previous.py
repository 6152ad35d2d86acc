"""The release before this one, by the ledger's schema: the last commit with fewer migrations, all ours."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
MIGRATIONS: Final = "services/holdfast/ledger/migrations"
ROOMS: Final = ("gen", "sdk", "services")
FARTHEST: Final = 500
"""Commits to look at."""


def unpacked(folder: Path) -> str:
    """Unpack that commit's code into a folder, and return the PYTHONPATH with which it goes before today's.

    Skips the test where there is no history to take it from.
    """
    commit = next(_earlier(), None)
    if commit is None:
        pytest.skip("no earlier release is at hand: this is no clone with enough of its history")
    archive = folder / "previous.tar"
    assert _git("archive", "--output", str(archive), commit, *ROOMS) is not None
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)
    archive.unlink()
    return ":".join(str(folder / room) for room in ROOMS)


def _earlier() -> Iterator[str]:
    """Yield commits, the newest first, whose migrations a database can have before it gets today's.

    What was merged while it was still being written is none: its migrations were edited later.
    """
    ours = {path.name: path.read_bytes() for path in (ROOT / MIGRATIONS).glob("*.sql")}
    for commit in (_git("rev-list", "--first-parent", f"--max-count={FARTHEST}", "HEAD") or "").split():
        tree = (_git("ls-tree", "--name-only", commit, f"{MIGRATIONS}/") or "").split()
        theirs = [path.rpartition("/")[2] for path in tree if path.endswith(".sql")]
        if not theirs or not ours.keys() > set(theirs):
            continue
        if all(_content(commit, name) == ours[name] for name in theirs):
            yield commit


def _content(commit: str, name: str) -> bytes:
    shown = ["git", "show", f"{commit}:{MIGRATIONS}/{name}"]
    return subprocess.run(shown, cwd=ROOT, capture_output=True, check=False).stdout


def _git(*arguments: str) -> str | None:
    """Return what git prints, None where it cannot."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
