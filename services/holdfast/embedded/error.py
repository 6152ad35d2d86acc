"""What can go wrong with an embedded PostgreSQL, in sentences a person can act on."""

from pathlib import Path


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot do what was asked; the message is one sentence for a person."""


class DirectoryInUseError(EmbeddedError):
    """Another process holds the data directory."""

    def __init__(self, directory: Path, pid: int) -> None:
        super().__init__(f"The data directory {directory} is in use by process {pid}.")
        self.directory = directory
        self.pid = pid


class StartError(EmbeddedError):
    """PostgreSQL did not start; the message ends with the last lines of its log."""

    def __init__(self, happened: str, log_tail: str) -> None:
        super().__init__(f"{happened}\n{log_tail}" if log_tail else happened)
