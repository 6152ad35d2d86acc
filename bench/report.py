"""The report: one JSON file for programs, one table for people, both naming the machine they come from."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.cases import Case, Result

_NOTHING = Result(None, {"reason": "not asked"})


def machine() -> dict[str, object]:
    """Describe what the numbers depend on; the load tells whether anybody else was at work."""
    return {
        "cpus": os.cpu_count(),
        "cpu": _first("/proc/cpuinfo", "model name"),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _first(path: str, name: str) -> str:
    file = Path(path)
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def entry(case: Case, measured: Mapping[str, Result]) -> dict[str, object]:
    """Say what one case gave, as it stands in the file."""
    ours = measured.get("ours", _NOTHING)
    return {
        "name": case.name,
        "unit": case.unit,
        "ours": ours.value,
        "peers": {name: result.value for name, result in measured.items() if name != "ours"},
        "detail": {name: result.detail for name, result in measured.items()},
    }


def write(path: Path, about: Mapping[str, object], entries: Sequence[Mapping[str, object]]) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps({"machine": about, "cases": entries}, indent=2) + "\n")
    draft.replace(path)


def table(measured: Sequence[tuple[Case, Mapping[str, Result]]]) -> str:
    """Lay the numbers out for a person; a dash is a number there is none of, and the file says why."""
    names = list(dict.fromkeys(name for _, results in measured for name in results))
    rows = [["case", "unit", *names]]
    for case, results in measured:
        values = [results.get(name, _NOTHING).value for name in names]
        rows.append([case.name, case.unit, *("-" if value is None else f"{value:g}" for value in values)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)  # noqa: PLR2004 - words, then numbers
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
