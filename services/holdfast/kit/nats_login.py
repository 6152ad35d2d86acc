"""How a NATS client says who it is: `user:password`, a token, or a `.creds` file's text (JWT and seed).

A seed is an Ed25519 key in NATS's own base32 form (nkeys): two bytes of prefix, 32 of key, two of checksum.
"""

import base64
import binascii
import re
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_BLOCK: Final = r"-+BEGIN {}-+\s+([A-Za-z0-9_.=-]+)\s+-+END {}-+"
_JWT: Final = re.compile(_BLOCK.format("NATS USER JWT", "NATS USER JWT"))
_SEED: Final = re.compile(_BLOCK.format("USER NKEY SEED", "USER NKEY SEED"))
_SEED_BYTES: Final = 36
_SEED_PREFIX: Final = 18 << 3


def login_of(secret: str) -> dict[str, Any]:
    """Return what `nats.connect` takes to say who connects. Raises `ValueError`, which holds no secret."""
    secret = secret.strip()
    if "BEGIN" in secret:
        return _by_key(secret)
    user, colon, password = secret.partition(":")
    return {"user": user, "password": password} if colon else {"token": secret}


def _by_key(creds: str) -> dict[str, Any]:
    jwt, seed = _JWT.search(creds), _SEED.search(creds)
    if jwt is None or seed is None:
        raise ValueError("The credentials of NATS hold no user JWT and seed.")
    key = _key_of(seed[1])

    def sign(nonce: str) -> bytes:
        return base64.b64encode(key.sign(nonce.encode()))

    return {"user_jwt_cb": lambda: bytearray(jwt[1].encode()), "signature_cb": sign}


def _key_of(seed: str) -> Ed25519PrivateKey:
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except binascii.Error:
        raw = b""
    whole = len(raw) == _SEED_BYTES and raw[0] & 0xF8 == _SEED_PREFIX
    if not whole or binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little"):
        raise ValueError("The seed of NATS is malformed.")
    return Ed25519PrivateKey.from_private_bytes(raw[2:34])
