"""Payloads sealed by those who own them: what callers and agents say to each other, no service can read.

`Sealing` seals the fields that the contract marks `sealable`, wherever a message holds them, and opens them;
a `PayloadCodec` says how. `AesSiv` is one, with keys out of a file.
"""

from holdfast.payload.aes_siv import AesSiv
from holdfast.payload.codec import PayloadCodec
from holdfast.payload.configured import configured_codec
from holdfast.payload.mark import KEY, is_sealed, is_sealed_json
from holdfast.payload.sealing import Sealing
from holdfast.payload.wire import SealedServer, sealed_channel

__all__ = [
    "KEY",
    "AesSiv",
    "PayloadCodec",
    "SealedServer",
    "Sealing",
    "configured_codec",
    "is_sealed",
    "is_sealed_json",
    "sealed_channel",
]
