"""Where what a process writes goes, and the last lines of it, which say why it did not start."""

from collections import deque
from pathlib import Path
from typing import Protocol

TAIL_LINES = 20
_LONGEST_LINE = 1024 * 1024


class Sink(Protocol):
    """Takes whole lines of a named process, without their line ends."""

    def __call__(self, name: str, line: str) -> None:
        """Take one line."""
        ...


class Lines:
    """Makes lines of the bytes of one process, passes them on and remembers the last ones."""

    def __init__(self, name: str, sink: Sink) -> None:
        self._name = name
        self._sink = sink
        self._rest = b""
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    def feed(self, chunk: bytes) -> None:
        """Take what was read; a line beyond a megabyte is cut in pieces."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._pass_on(line)
        if len(self._rest) > _LONGEST_LINE:
            self.end()

    def end(self) -> None:
        """Take what is left as a line."""
        if self._rest:
            rest, self._rest = self._rest, b""
            self._pass_on(rest)

    def tail(self) -> str:
        """Return the last lines."""
        return "\n".join(self._tail)

    def _pass_on(self, raw: bytes) -> None:
        line = raw.decode(errors="replace")
        self._tail.append(line)
        self._sink(self._name, line)


def log_file(folder: Path, name: str) -> Path:
    """Return where a process's log is within the suite's folder."""
    return folder / f"{name}.log"


def to_files(folder: Path) -> Sink:
    """Return a sink that appends to the log files of `folder`."""

    def write(name: str, line: str) -> None:
        with log_file(folder, name).open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    return write
