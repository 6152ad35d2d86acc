"""Which files in PEM a service shows and trusts over TLS; they may be replaced at any time."""

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Final

Stamp = tuple[int, ...]
"""Tells whether files have changed."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Our certificate with its key, and whom to trust; with `client_ca` clients must show a certificate."""

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    client_ca: Path | None = None

    @property
    def serves(self) -> bool:
        """Whether servers use it."""
        return self.cert is not None

    @property
    def calls(self) -> bool:
        """Whether calls to other services use it."""
        return self.ca is not None

    def stamp(self) -> Stamp:
        """Return what changes with the files. Raises `OSError` while one is away, or empty.

        Who writes a file in its place leaves it empty for a moment, and gRPC ends a process that shows such a
        key.
        """
        files = (self.cert, self.key, self.ca, self.client_ca)
        return tuple(_written(path) for path in files if path is not None)


def _written(path: Path) -> int:
    status = path.stat()
    if not status.st_size:
        raise OSError(errno.ENODATA, "it is empty", str(path))
    return status.st_mtime_ns


PLAIN: Final = Tls()
"""No TLS."""
