"""Secrets that an operator's declarations name are in the environment or in mounted files, never among them.

The secret `github` is `HOLDFAST_SECRET_GITHUB`, or the file `github`. Several, a line each, are all taken: so
a sender's secret is changed without a gap.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class SecretMissingError(Exception):
    """The operator has not given a secret, or not as it must be; the text holds nothing of it."""


def is_secret_name(name: str) -> bool:
    """Say whether a secret can have this name: it becomes part of a variable's name and of a path."""
    return _NAME.fullmatch(name) is not None


class Secrets:
    """Finds secrets by name; files are read each time, so that a changed one counts at once."""

    def __init__(self, environ: Mapping[str, str], folder: Path | None = None) -> None:
        self._environ = environ
        self._folder = folder

    def text(self, name: str) -> str:
        """Return a secret as it was given, without white space around it. Raises `SecretMissingError`."""
        variable = "HOLDFAST_SECRET_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
        text = self._environ.get(variable, "").strip() or self._file(name)
        if not text:
            raise SecretMissingError(f"The secret {name!r} is neither in {variable} nor in a file.")
        return text

    def lines(self, name: str) -> list[str]:
        """Return the secrets of a name, one for each line. Raises `SecretMissingError`."""
        return [line.strip() for line in self.text(name).splitlines() if line.strip()]

    def _file(self, name: str) -> str:
        if self._folder is None:
            return ""
        try:
            return (self._folder / name).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return ""
