"""AES-SIV (RFC 5297): encrypts and authenticates, and says the same twice as the same.

Who reads the ledger learns which sealed values are equal and how long they are, and nothing else of them.
"""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

_LENGTHS: Final = (32, 48, 64)
_LONGEST_NAME: Final = 64


class AesSiv:
    """Seals with the first of its keys and opens with any of them, so that keys can be replaced.

    What is kept is the length of the key's name in one byte, the name, and what RFC 5297 makes of the data
    with the name as associated data.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """Take keys of 32, 48 or 64 bytes by their names. Raises ValueError in one sentence."""
        if not keys:
            raise ValueError("There is no key to seal payloads with.")
        for name, key in keys.items():
            if not 1 <= len(name.encode()) <= _LONGEST_NAME:
                raise ValueError(
                    f"The name of a key takes 1 to {_LONGEST_NAME} bytes, and {name!r} does not."
                )
            if len(key) not in _LENGTHS:
                raise ValueError(f"The key {name} has {len(key)} bytes; 32, 48 or 64 make a key of AES-SIV.")
        self._ciphers = {name.encode(): AESSIV(key) for name, key in keys.items()}
        self._first = next(iter(self._ciphers))

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read the keys, a line each: name, space, key in base64; the first one seals, the others open.

        Raises ValueError in one sentence, which holds no key.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"The keys of payloads cannot be read in {path}.") from error
        keys: dict[str, bytes] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                name, encoded = line.split()
                key = base64.b64decode(encoded, validate=True)
            except (ValueError, binascii.Error) as error:
                raise ValueError(
                    f"Line {number} of {path} is no key of payloads: it must be a name and 32, 48 or 64 "
                    "bytes in base64."
                ) from error
            if name in keys:
                raise ValueError(f"The key {name} is twice in {path}.")
            keys[name] = key
        return cls(keys)

    def encode(self, data: bytes) -> bytes:
        """Seal with the first key."""
        name = self._first
        return bytes((len(name),)) + name + self._ciphers[name].encrypt(data, [name])

    def decode(self, data: bytes) -> bytes:
        """Open with the key that it was sealed with. Raises ValueError."""
        length = data[0] if data else 0
        name, rest = data[1 : 1 + length], data[1 + length :]
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise ValueError("it was sealed with a key that is not here")  # its name is the sender's to say
        try:
            return cipher.decrypt(rest, [name])
        except (InvalidTag, ValueError) as error:
            raise ValueError(f"the key {name.decode()} does not fit, or it was changed") from error
