"""What guards a broker is shown: certificates, passwords and tokens, from files that the operator mounts."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.edge.topic_reading import bodies, numbers, reading, runs
from tests.invoker.stand import Invoker
from tests.support.certificate import Authority
from tests.support.kafka_server import KafkaServer, Topic, kafka_server, needs_kafka

pytestmark = [needs_kafka, pytest.mark.timeout(240)]

_MODULES = "org.apache.kafka.common.security"
_CONFIG = """
listener.name.guarded.ssl.client.auth=required
listener.name.guarded.ssl.keystore.type=PEM
listener.name.guarded.ssl.keystore.certificate.chain={chain}
listener.name.guarded.ssl.keystore.key={key}
listener.name.guarded.ssl.truststore.type=PEM
listener.name.guarded.ssl.truststore.certificates={ca}
listener.name.guarded.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,OAUTHBEARER
listener.name.guarded.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required user_ada="secret";
listener.name.guarded.scram-sha-256.sasl.jaas.config={modules}.scram.ScramLoginModule required;
listener.name.guarded.oauthbearer.sasl.jaas.config={modules}.oauthbearer.OAuthBearerLoginModule required \
    unsecuredLoginStringClaim_sub="broker";
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the secrets are mounted."""
    return tmp_path_factory.mktemp("secrets")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker whose guarded port wants a certificate of its authority, and a login."""
    issued = tmp_path_factory.mktemp("issued")
    authority = Authority(issued)
    chain, key = authority.issue("broker")
    (folder / "ca").write_text(authority.ca.read_text())
    (folder / "member").write_text("".join(one.read_text() for one in authority.issue("member")))
    told = {"chain": chain, "key": key, "ca": authority.ca}
    config = _CONFIG.format(modules=_MODULES, **{name: _escaped(path) for name, path in told.items()})
    users = ["SCRAM-SHA-256=[name=ada,password=secret]"]
    with kafka_server(issued, protocol="SASL_SSL", config=config, scram=users) as one:
        yield one


@pytest.fixture
async def topic(server: KafkaServer) -> Topic:
    return await server.make(1)


def _escaped(path: Path) -> str:
    return path.read_text().replace("\n", "\\n")


def _token() -> str:
    """Return a token that this broker believes without a signature."""
    now = int(time.time())
    parts = {"alg": "none"}, {"sub": "ada", "iat": now, "exp": now + 600}
    told = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return ".".join(told) + "."


def guarded(topic: Topic, **more: Any) -> dict[str, Any]:
    shown = {"tls": True, "ca": "ca", "certificate": "member", "credentials": "login"}
    return {"servers": [f"127.0.0.1:{topic.server.guarded}"], **shown, **more}


@pytest.mark.parametrize(
    ("sasl", "login"), [("SCRAM-SHA-256", "ada:secret"), ("PLAIN", "ada:secret"), ("OAUTHBEARER", "")]
)
async def test_a_guarded_broker_is_read_with_what_is_mounted(
    door: Invoker, topic: Topic, folder: Path, sasl: str, login: str
) -> None:
    await topic.write(*bodies(0, 3))
    (folder / "login").write_text((login or _token()) + "\n")
    async with reading(door, topic, folder, **guarded(topic, sasl=sasl)):
        await runs(door, 3)
    assert await numbers(door) == [0, 1, 2]


@pytest.mark.parametrize(
    "broken",
    [("login", "ada:hunter2"), ("login", "ada"), ("login", None), ("ca", "no PEM"), ("member", None)],
)
async def test_what_is_wrong_or_missing_is_waited_for_and_counts_once_it_is_right(
    door: Invoker,
    topic: Topic,
    folder: Path,
    broken: tuple[str, str | None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, wrong = broken
    await topic.write(*bodies(0, 1))
    (folder / "login").write_text("ada:secret")
    right = (folder / name).read_text()
    (folder / name).unlink() if wrong is None else (folder / name).write_text(wrong)
    try:
        async with reading(door, topic, folder, **guarded(topic, sasl="SCRAM-SHA-256")) as reader:
            await reader.loop.signal.completed(2, deadline=60)
            said = capsys.readouterr().err
            assert "cannot read" in said
            assert "hunter2" not in said
            (folder / name).write_text(right)
            await runs(door, 1)
    finally:
        (folder / name).write_text(right)
