"""Signing secrets are where the dispatcher runs, never in the ledger: in its environment or in mounted files.

The `default` tenant's secret `tickets` is `HOLDFAST_SECRET_TICKETS`, or the file `tickets`. Other tenants
have a folder each, `<tenant>/tickets`: a name must not let one tenant sign with another's secret.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_OF_ALL: Final = "default"


class SecretMissingError(Exception):
    """The operator has not given this secret, or not as base64; the text names it and holds nothing of it."""


def is_secret_name(name: str) -> bool:
    """Say whether a secret can have this name: it becomes part of a variable's name and of a path."""
    return _NAME.fullmatch(name) is not None


class Secrets:
    """Finds secrets by tenant and name; files are read each time, so that a rotated one counts at once."""

    def __init__(self, environ: Mapping[str, str], folder: Path | None = None) -> None:
        self._environ = environ
        self._folder = folder

    def signer(self, tenant: str, name: str) -> Webhook:
        """Return what signs with a secret. Raises `SecretMissingError`."""
        text = self._text(tenant, name) if is_secret_name(name) else None
        if text is None:
            raise SecretMissingError(f"The operator has not given the signing secret {name!r}.")
        try:
            return Webhook(text)
        except (ValueError, EmptyWebhookSecretError) as error:
            raise SecretMissingError(f"The signing secret {name!r} is not base64 (whsec_…).") from error

    def _text(self, tenant: str, name: str) -> str | None:
        if tenant == _OF_ALL:
            variable = "HOLDFAST_SECRET_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
            if text := self._environ.get(variable, "").strip():
                return text
            return self._file(Path(name))
        return None if tenant in (".", "..") else self._file(Path(quote(tenant, safe="")) / name)

    def _file(self, path: Path) -> str | None:
        if self._folder is None:
            return None
        try:
            return (self._folder / path).read_text("utf-8").strip() or None
        except (OSError, UnicodeDecodeError):
            return None
