"""A runner shows for each run that it holds the run's lease: tenant, run, epoch and an end, signed with HMAC.

The epoch makes a capability worthless once the run is leased anew; its end, once nobody renews it.
"""

import base64
import binascii
import hmac
import struct
import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from holdfast.kit.auth.identity import current_identity
from holdfast.kit.errors import CapabilityRefused
from holdfast.kit.settings import SettingsError

HEADER: Final = "holdfast-capability"
LEAST_KEY: Final = 32
"""Bytes of a key, at least."""

_PURPOSE: Final = b"holdfast.v1.lease\0"
_FIXED: Final = struct.Struct(">16sqq")
_MAC: Final = 32


@dataclass(frozen=True, slots=True)
class Capability:
    """Says that whoever shows it holds this lease."""

    tenant: str
    run_id: UUID
    epoch: int


class Capabilities:
    """Makes and checks capabilities; the first key signs, each verifies. `life` in seconds."""

    def __init__(self, keys: Sequence[bytes], *, life: float = 3600.0) -> None:
        self.life = life
        self._keys = tuple(keys)

    def issue(self, capability: Capability) -> str:
        """Make a capability that holds for `life` from now on."""
        end = int(time.time() + self.life)
        body = _FIXED.pack(capability.run_id.bytes, capability.epoch, end) + capability.tenant.encode()
        return base64.urlsafe_b64encode(body + _mac(self._keys[0], body)).decode().rstrip("=")

    def verify(self, text: str) -> Capability:
        """Return what a capability says. Raises `CapabilityRefused`."""
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        body, mac = raw[:-_MAC], raw[-_MAC:]
        if len(body) <= _FIXED.size or not any(hmac.compare_digest(_mac(k, body), mac) for k in self._keys):
            raise CapabilityRefused("The capability does not verify.")
        run, epoch, end = _FIXED.unpack_from(body)
        if end <= time.time():
            raise CapabilityRefused("The capability is over.", facts={"run_id": str(UUID(bytes=run))})
        return Capability(body[_FIXED.size :].decode(), UUID(bytes=run), epoch)

    def demand(self, text: str, run_id: UUID, epoch: int) -> None:
        """Raise `CapabilityRefused` unless a capability is that of this lease."""
        shown = self.verify(text)
        if (shown.run_id, shown.epoch) != (run_id, epoch):
            raise _another(run_id)


_shown: ContextVar[Capability | None] = ContextVar("holdfast_capability", default=None)


def show(capability: Capability) -> None:
    """Take this task's call for one of whoever holds a lease."""
    _shown.set(capability)


def current_capability() -> Capability | None:
    """Return the lease whose holder makes the call that this task serves; None for other callers."""
    return _shown.get()


def demand_lease(run_id: UUID, epoch: int) -> None:
    """Raise `CapabilityRefused` unless who holds a lease makes the call; without identity anybody may."""
    if current_identity() is None:
        return
    shown = _shown.get()
    if shown is None or (shown.run_id, shown.epoch) != (run_id, epoch):
        raise _another(run_id)


def keys_of(key: str, file: Path | None) -> list[bytes]:
    """Return the keys told: one as text, or those in a file, one a line. Raises `SettingsError`."""
    try:
        told = file.read_text(encoding="utf-8") if file is not None else key
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"HOLDFAST_CAPABILITY_KEY_FILE is not usable: {file} cannot be read.") from error
    keys = [line.strip().encode() for line in told.splitlines() if line.strip()]
    if any(len(each) < LEAST_KEY for each in keys):
        raise SettingsError(f"Each capability key must have at least {LEAST_KEY} characters.")
    return keys


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, _PURPOSE + body, "sha256")


def _another(run_id: UUID) -> CapabilityRefused:
    return CapabilityRefused(
        "The call needs the capability of the lease it is about.", facts={"run_id": str(run_id)}
    )
