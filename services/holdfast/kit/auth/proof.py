"""What a service shows of itself to other services: a token, read anew when its file changes."""

from pathlib import Path
from typing import Final

from holdfast.kit.auth.credential import HEADER
from holdfast.kit.settings import SettingsError

Metadata = tuple[tuple[str, str], ...]
_STALE: Final = -1


class Proof:
    """A token of our own, told as text or in a file; without either nothing is shown."""

    def __init__(self, token: str = "", file: Path | None = None) -> None:
        """Read the token. Raises `SettingsError` if the file cannot be read."""
        self._file = file
        self._token = token.strip()
        self._read_at = _STALE
        if file is not None:
            try:
                self._token = file.read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(f"HOLDFAST_TOKEN_FILE is not usable: {file} cannot be read.") from error

    def metadata(self) -> Metadata:
        """Return what goes with a call."""
        if self._file is not None:
            self._refresh(self._file)
        return ((HEADER, f"Bearer {self._token}"),) if self._token else ()

    def _refresh(self, file: Path) -> None:
        try:
            changed = file.stat().st_mtime_ns
            if changed != self._read_at:
                self._token = file.read_text(encoding="ascii").strip()
                self._read_at = changed
        except (OSError, UnicodeDecodeError):
            return  # while a file is replaced it may be away: the token known is used


NOTHING: Final = Proof()
"""Shows nothing: for services without identity."""
