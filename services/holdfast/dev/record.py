"""A running suite is found by whoever works in the same folder: `.holdfast/dev.json` says where it is."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

FOLDER: Final = ".holdfast"
_NAME: Final = "dev.json"


def write_record(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write where the suite is, at once or not at all; only its owner may read it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _NAME
    fresh = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({**record, "pid": os.getpid()}, file, indent=2)
        file.write("\n")
    fresh.replace(path)
    return path


def remove_record(path: Path) -> None:
    """Remove the record, unless another suite has written its own over it."""
    with suppress(OSError, ValueError):
        if json.loads(path.read_text())["pid"] == os.getpid():
            path.unlink()


def find_record(start: Path) -> dict[str, Any] | None:
    """Return the record of a suite that runs now, from `start` or the nearest folder above it."""
    for folder in (start, *start.parents):
        try:
            record = json.loads((folder / FOLDER / _NAME).read_text())
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and _runs(record.get("pid")):
            return record
    return None


def _runs(pid: object) -> bool:
    """Tell whether the process that wrote a record lives; a killed one leaves its record behind."""
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True
