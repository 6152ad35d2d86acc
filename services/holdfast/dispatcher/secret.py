"""Signing secrets are where the dispatcher runs, never in the ledger: in its environment or in mounted files.

The `default` tenant's secret `tickets` is `HOLDFAST_SECRET_TICKETS`, or the file `tickets`. Other tenants
have a folder each, `<tenant>/tickets`: a name must not let one tenant sign with another's secret.

A secret is rotated without a gap by giving several, separated by white space: all of them sign (the header is
a list, as Standard Webhooks has it), and a receiver accepts what it knows one of.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from holdfast.kit.nats_login import login_of

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_OF_ALL: Final = "default"
_MOST_KEYS: Final = 8  # what receivers let a header's list of signatures be long


class SecretMissingError(Exception):
    """The operator has not given this secret, or not as base64; the text names it and holds nothing of it."""


def is_secret_name(name: str) -> bool:
    """Say whether a secret can have this name: it becomes part of a variable's name and of a path."""
    return _NAME.fullmatch(name) is not None


class Signer:
    """Signs with every secret it was given, in the order given."""

    def __init__(self, secrets: Sequence[Webhook]) -> None:
        self._secrets = secrets

    def sign(self, message_id: str, time: datetime, body: str) -> str:
        """Return the value of `webhook-signature`: a signature of each secret, separated by spaces."""
        return " ".join(secret.sign(message_id, time, body) for secret in self._secrets)


class Secrets:
    """Finds secrets by tenant and name; files are read each time, so that a rotated one counts at once."""

    def __init__(self, environ: Mapping[str, str], folder: Path | None = None) -> None:
        self._environ = environ
        self._folder = folder

    def signer(self, tenant: str, name: str) -> Signer:
        """Return what signs with a secret. Raises `SecretMissingError`."""
        text = self._text(tenant, name) if is_secret_name(name) else None
        if text is None:
            raise SecretMissingError(f"The operator has not given the signing secret {name!r}.")
        keys = text.split()
        if len(keys) > _MOST_KEYS:
            raise SecretMissingError(f"The signing secret {name!r} has more than {_MOST_KEYS} keys.")
        try:
            return Signer([Webhook(key) for key in keys])
        except (ValueError, EmptyWebhookSecretError) as error:
            raise SecretMissingError(f"The signing secret {name!r} is not base64 (whsec_…).") from error

    def login(self, tenant: str, name: str, server: str) -> str:
        """Return what shows a NATS server who connects, as `login_of` takes it. Raises `SecretMissingError`.

        The secret begins with the `host:port` it is for: it is shown to nobody else, whatever a destination
        says.
        """
        text = self._text(tenant, name) if is_secret_name(name) else None
        place, _, login = (text or "").replace("\n", " ", 1).partition(" ")
        if place.lower() != server.lower() or not login.strip():
            raise SecretMissingError(f"The operator has given no credentials {name!r} for {server}.")
        try:
            login_of(login)
        except ValueError as error:
            raise SecretMissingError(f"The credentials {name!r} are malformed: {error}") from error
        return login

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
