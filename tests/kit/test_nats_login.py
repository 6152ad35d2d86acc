"""What shows a NATS server who connects is read from the forms NATS has, and a real server believes it."""

import base64
import binascii
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from nats.aio.client import Client
from nats.errors import Error

from holdfast.kit.nats_login import login_of
from tests.support.nats_server import nats_server, needs_nats

OPERATOR, ACCOUNT, USER, SEED = 14 << 3, 0, 20 << 3, 18 << 3


class Key:
    """A key in NATS's own form (nkeys), made here from its description."""

    def __init__(self, kind: int) -> None:
        self._key = Ed25519PrivateKey.generate()
        self._kind = kind
        self.public = _coded(
            bytes([kind]) + self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        )

    @property
    def seed(self) -> str:
        raw = self._key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return _coded(bytes([SEED | self._kind >> 5, (self._kind & 31) << 3]) + raw)

    def says(self, subject: str, **claims: Any) -> str:
        told = {"jti": "x", "iat": 1, "iss": self.public, "name": "n", "sub": subject}
        told["nats"] = {"version": 2, **claims}
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = ".".join(_plain(json.dumps(part).encode()) for part in (head, told))
        return f"{text}.{_plain(self._key.sign(text.encode()))}"


def _coded(raw: bytes) -> str:
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")


def _plain(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def creds(jwt: str, seed: str) -> str:
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


@needs_nats
async def test_a_real_server_believes_a_creds_file(tmp_path: Path) -> None:
    operator, account, user = Key(OPERATOR), Key(ACCOUNT), Key(USER)
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    of_account = operator.says(
        account.public, type="account", limits={**limits, "wildcards": True}, default_permissions={}
    )
    of_user = account.says(user.public, type="user", subs=-1, data=-1, payload=-1)
    config = (
        f"operator: {operator.says(operator.public, type='operator')}\n"
        f"resolver: MEMORY\nresolver_preload: {{ {account.public}: {of_account} }}\n"
    )
    text = creds(of_user, user.seed)
    async with nats_server(tmp_path, config, jetstream=False) as server:
        async with Client() as client:
            await client.connect(server.url, allow_reconnect=False, **login_of(text))
            assert client.is_connected
        wrong = creds(of_user, Key(USER).seed)
        # One that is not let in keeps its connection until it is closed.
        async with Client() as client:
            with pytest.raises(Error):
                await client.connect(server.url, allow_reconnect=False, error_cb=_quiet, **login_of(wrong))


async def _quiet(error: Exception) -> None:
    del error


def test_a_user_with_a_password_and_a_token_are_told_apart() -> None:
    assert login_of(" ada:p:w \n") == {"user": "ada", "password": "p:w"}
    assert login_of("t0ken") == {"token": "t0ken"}


@pytest.mark.parametrize(
    "spoilt",
    ["SU", "A" * 58, Key(USER).seed[:-1] + "1", "S!"],
    ids=["short", "other", "wrong sum", "letters"],
)
def test_a_malformed_seed_is_refused_without_being_told(spoilt: str) -> None:
    with pytest.raises(ValueError, match="NATS") as refused:
        login_of(creds("a.b.c", spoilt))
    assert spoilt not in str(refused.value)
