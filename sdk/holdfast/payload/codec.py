"""The hook: bytes into other bytes, and back."""

from typing import Protocol


class PayloadCodec(Protocol):
    """Turns what is said into what is kept. It is called in the event loop: it must not wait for anything."""

    def encode(self, data: bytes) -> bytes:
        """Return what is kept instead of `data`, JSON in UTF-8; the same for the same, in every process.

        A repeated call has to be recognised by what it says, so no chance may go into it.
        """
        ...

    def decode(self, data: bytes) -> bytes:
        """Return what was encoded. Raises ValueError if that cannot be told: another key, or changed."""
        ...
