"""What seals the console's cookies is kept with the data: who has signed in stays so over a restart."""

import os
import secrets
from pathlib import Path

_NAME = "console-secret"


def console_secret(data_directory: Path | None) -> str:
    """Return the secret of a data directory, made at the first time; without one, a new one each time."""
    made = secrets.token_hex(32)
    if data_directory is None:
        return made
    data_directory.mkdir(parents=True, exist_ok=True)
    path, own = data_directory / _NAME, data_directory / f".{_NAME}-{os.getpid()}"
    descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(made)
    try:
        path.hardlink_to(own)  # whole, or not there
    except FileExistsError:
        made = path.read_text(encoding="utf-8")
    finally:
        own.unlink()
    return made
