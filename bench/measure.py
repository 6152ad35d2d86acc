"""What the machine can tell about work done: CPU time by process, and the middle of many measurements.

Standard library only: peers import this module from environments of their own. CPU time is read from
`/proc`, so it is Linux only; elsewhere no CPU time is reported.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

WARM_UP_RUNS = 2_000
"""Runs before throughput is measured: by then connections are open, plans are made, code is hot."""

_PROC = Path("/proc")
_TICK = os.sysconf("SC_CLK_TCK")
# Places after the command name, which ends at the last ")": proc_pid_stat(5), fields 4 and 14 to 17.
_PARENT, _USER, _CHILDREN_SYSTEM = 1, 11, 14


def tree_cpu_ticks(root: int) -> dict[int, int]:
    """Return the CPU time of a process and each living descendant, what they have reaped included."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        pid = int(entry.name)
        children.setdefault(int(fields[_PARENT]), []).append(pid)
        ticks[pid] = sum(int(field) for field in fields[_USER : _CHILDREN_SYSTEM + 1])
    tree, waiting = {}, [root]
    while waiting:
        pid = waiting.pop()
        if pid in ticks:
            tree[pid] = ticks[pid]
        waiting += children.get(pid, [])
    return tree


def tree_cpu_seconds(root: int) -> float:
    """Sum the CPU time of a process, its living descendants and those they have reaped."""
    return sum(tree_cpu_ticks(root).values()) / _TICK


class Meter:
    """Elapsed and CPU time between `start` and `read`, the measuring process itself counted as `client`."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = processes
        self.start()

    def start(self) -> None:
        """Begin anew; call it after the warm-up."""
        self._cpu = {name: tree_cpu_seconds(pid) for name, pid in self._processes.items()}
        self._own = time.process_time()
        self._began = time.perf_counter()

    def read(self, runs: int) -> dict[str, object]:
        """Say what the runs since `start` cost, as the answer to a question about throughput."""
        seconds = time.perf_counter() - self._began
        spent = {name: tree_cpu_seconds(pid) - self._cpu[name] for name, pid in self._processes.items()}
        spent["client"] = time.process_time() - self._own
        per_run = {name: round(1000 * cpu / runs, 3) for name, cpu in spent.items()}
        return {
            "runs": runs,
            "seconds": round(seconds, 3),
            "throughput": round(runs / seconds, 1),
            "cpu_ms_per_run": round(sum(per_run.values()), 3) if _PROC.is_dir() else None,
            "cpu_by_process": per_run,
        }


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` (0 to 1) of all values do not exceed; no interpolation."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
