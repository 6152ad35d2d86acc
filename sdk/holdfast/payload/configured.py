"""The codec that a process is told to use."""

import importlib
from pathlib import Path
from typing import cast

from holdfast.payload.aes_siv import AesSiv
from holdfast.payload.codec import PayloadCodec


def configured_codec(codec: str, keys_file: Path | None) -> PayloadCodec | None:
    """Return the codec at `module:name`, or one with the keys in a file; None if neither is told.

    Raises ValueError in one sentence.
    """
    if codec and keys_file is not None:
        raise ValueError("HOLDFAST_PAYLOAD_CODEC and HOLDFAST_PAYLOAD_KEYS_FILE: set one of them.")
    if keys_file is not None:
        return AesSiv.from_file(keys_file)
    return _imported(codec) if codec else None


def _imported(codec: str) -> PayloadCodec:
    module, colon, name = codec.partition(":")
    if not (module and colon and name):
        raise ValueError(f"A payload codec is named as module:name, and {codec!r} is not.")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The payload codec {codec} cannot be imported: {error}.") from error
    if not all(callable(getattr(found, name, None)) for name in ("encode", "decode")):
        raise ValueError(f"{codec} is no payload codec: it must have encode and decode.")
    return cast("PayloadCodec", found)
