"""Which files in PEM a service shows and trusts over TLS; they may be replaced at any time."""

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
        """Return what changes with the files. Raises `OSError` while one is away."""
        files = (self.cert, self.key, self.ca, self.client_ca)
        return tuple(path.stat().st_mtime_ns for path in files if path is not None)


PLAIN: Final = Tls()
"""No TLS."""
