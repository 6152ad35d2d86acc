"""What agents of the crash tests really did: every process appends to one file, which nothing takes back.

A line is written by one `write` to a file opened with O_APPEND, so the lines of all processes stand in the
order in which things happened, and a process that is killed leaves only whole ones.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "HOLDFAST_TEST_DEEDS"
"""Where runners find the file."""


@dataclass(frozen=True, slots=True)
class Deed:
    """One line. `what`: started, executed, passed (a step whose record was acknowledged), ended."""

    what: str
    run_id: str
    attempt: int = 0
    step: str = ""
    token: str = ""
    pid: int = 0


def note(what: str, run_id: str, *, attempt: int = 0, step: str = "", token: str = "") -> None:
    """Write down what the process does now."""
    deed = Deed(what, run_id, attempt, step, token, os.getpid())
    line = json.dumps(asdict(deed)) + "\n"
    file = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def deeds(path: Path) -> Iterator[Deed]:
    """Yield what was done so far, in order."""
    if path.exists():
        for line in path.read_text().splitlines():
            yield Deed(**json.loads(line))
