"""New ids are UUIDs that sort by when they were made."""

import os
import time
import uuid
from typing import Final

_VERSION_7: Final = 0x7 << 76
_VARIANT: Final = 0b10 << 62


def new_id() -> uuid.UUID:
    """Return a new UUID of version 7 (RFC 9562, section 5.7): 48 bits of milliseconds, 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10))
    value = (milliseconds & (1 << 48) - 1) << 80 | _VERSION_7 | _VARIANT
    value |= (random >> 68 & 0xFFF) << 64 | random & (1 << 62) - 1
    return uuid.UUID(int=value)
