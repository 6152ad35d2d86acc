"""Finds and ends the processes of a PostgreSQL whose server process is dead.

When the server process is killed, its children notice at their next wait; one that computes may go on for
long, and PostgreSQL refuses to start again beside it. All of them stand in the cluster's folder, by which
they are found: `/proc/<pid>/cwd`. They may be killed: recovery follows in any case.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_PATIENCE_S = 5.0


def kill_leftovers(cluster: Path) -> int:
    """Kill every process that stands in `cluster`, wait until they are gone, and return how many there were.

    Call it only when no server of ours is meant to run there. `TimeoutError` when one cannot be killed.
    """
    found = _standing_in(cluster)
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    give_up = time.monotonic() + _PATIENCE_S
    while _standing_in(cluster):
        if time.monotonic() >= give_up:
            raise TimeoutError(f"processes of the former PostgreSQL in {cluster} cannot be killed")
        time.sleep(0.005)
    return len(found)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie is dead, only not yet buried."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def _standing_in(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        # Another user's process, or one that ended meanwhile, is none of ours.
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder:
                found.append(int(entry.name))
    return found
