"""The release before this one, by the ledger's schema: the last commit without its newest migration."""

import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
MIGRATIONS: Final = "services/holdfast/ledger/migrations"
ROOMS: Final = ("gen", "sdk", "services")


def unpacked(folder: Path) -> str:
    """Unpack that commit's code into a folder, and return the PYTHONPATH with which it goes before today's.

    Skips the test where there is no history to take it from.
    """
    newest = _git("log", "--first-parent", "-m", "--diff-filter=A", "-1", "--format=%H", "--", MIGRATIONS)
    if not newest:
        pytest.skip("no earlier release is at hand: this is no clone with its history")
    archive = folder / "previous.tar"
    if _git("archive", "--output", str(archive), f"{newest}^1", *ROOMS) is None:
        pytest.skip("no earlier release is at hand: the clone's history does not reach back to it")
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)
    archive.unlink()
    before = {path.name for path in (folder / MIGRATIONS).iterdir()}
    assert before < {path.name for path in (ROOT / MIGRATIONS).iterdir()}
    return ":".join(str(folder / room) for room in ROOMS)


def _git(*arguments: str) -> str | None:
    """Return what git prints, None where it cannot."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
