"""An issuer of JWTs: keys it publishes, tokens it signs, and the server where its configuration is found."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ISSUER = "https://id.test"
AUDIENCE = "holdfast"


class Key:
    """A key pair of the issuer's."""

    def __init__(self, kid: str | None = "one", algorithm: str = "RS256", *, named: bool = True) -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.named = named
        self.private: Any = (
            ec.generate_private_key(ec.SECP256R1())
            if algorithm.startswith("ES")
            else rsa.generate_private_key(public_exponent=65537, key_size=2048)
        )

    @property
    def public_pem(self) -> bytes:
        """The public key as anybody may have it."""
        pem: bytes = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key as it is published."""
        name = "ES256" if self.algorithm.startswith("ES") else "RS256"
        known = jwt.get_algorithm_by_name(name).to_jwk(self.private.public_key(), as_dict=True)
        more = {"kid": self.kid} if self.kid else {}
        return {**known, "use": "sig", **more, **({"alg": self.algorithm} if self.named else {})}

    def sign(self, claims: dict[str, Any] | None = None, *, headers: dict[str, Any] | None = None) -> str:
        """Sign a token that holds, but for what is told otherwise; a claim of None is left out."""
        kid = {"kid": self.kid} if self.kid else {}
        return jwt.encode(
            claims_with(claims), self.private, algorithm=self.algorithm, headers={**kid, **(headers or {})}
        )


def claims_with(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the claims of a token that holds, with changes."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ada",
        "tenant": "acme",
        "groups": ["credit"],
        "roles": ["invoke"],
        "iat": now,
        "exp": now + 300,
    } | (changes or {})
    return {name: value for name, value in claims.items() if value is not None}


class Issuer:
    """Publishes keys over HTTP; counts how often it is asked."""

    def __init__(self, *keys: Key) -> None:
        self.keys = list(keys)
        self.url = ""
        self.claimed = ""  # what its configuration says; empty: the truth
        self.asked: list[str] = []
        self.broken = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        self.asked.append(path)
        if path.endswith("/openid-configuration"):
            answer: Any = {"issuer": self.claimed or self.url, "jwks_uri": f"{self.url}/keys"}
        else:
            answer = {"keys": [key.jwk for key in self.keys]}
        body = json.dumps(answer).encode()
        status = "500 Broken" if self.broken else "200 OK"
        writer.write(
            f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def issuing(*keys: Key) -> AsyncIterator[Issuer]:
    """Run an issuer on loopback."""
    issuer = Issuer(*keys)
    server = await asyncio.start_server(issuer.serve, "127.0.0.1", 0)
    issuer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield issuer
