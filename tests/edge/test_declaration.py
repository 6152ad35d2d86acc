"""A declaration that cannot be meant is refused in one sentence that names the field."""

import asyncio
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from holdfast.edge.declaration import read_sources, sources_of
from holdfast.edge.place import Place
from holdfast.edge.source import HttpSource, KafkaSource, NatsSource
from holdfast.invoker.item_source import item_sources_of
from holdfast.kit.settings import SettingsError

HTTP: dict[str, Any] = {"path": "/h", "verify": "github", "secret": "s", "intent": "i"}
NATS: dict[str, Any] = {"servers": ["nats://localhost:4222"], "stream": "S", "intent": "i"}
KAFKA: dict[str, Any] = {"servers": ["localhost:9092"], "topic": "t", "intent": "i"}


def test_the_documented_declarations_are_read() -> None:
    text = Path("docs/sources.md").read_text(encoding="utf-8")
    events, items = (tomllib.loads(part.partition("```")[0]) for part in text.split("```toml\n")[1:])
    assert {type(source) for source in sources_of(events)} == {HttpSource, NatsSource, KafkaSource}
    assert item_sources_of(items)


def test_a_source_is_as_declared_and_otherwise_usual() -> None:
    declared = {"http": {"a": HTTP | {"key": "digest"}}, "nats": {"b.c": NATS}, "kafka": {"d.e": KAFKA}}
    hook, reader, member = sources_of(declared)
    assert isinstance(hook, HttpSource)
    assert isinstance(reader, NatsSource)
    assert isinstance(member, KafkaSource)
    assert (member.group, member.tls, member.sasl, member.deliver) == ("holdfast-d.e", False, "", "all")
    assert (hook.of.tenant, hook.of.key, hook.max_bytes, hook.tolerance) == (
        "default",
        "digest",
        1048576,
        300,
    )
    assert (reader.durable, reader.batch, reader.deliver) == ("holdfast-b_c", 100, "all")
    assert Place.of("body.a.0").text == "body.a.0"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"path": "hooks"}, "path must be a path"),
        ({"path": "/a/../b?c"}, "path must be a path"),
        ({"path": "/healthz"}, "path must not be /healthz"),
        ({"path": None}, "path must be given"),
        ({"verify": "sha1"}, "verify must be one of standard-webhooks, github, stripe, none"),
        ({"verify": None}, "verify must be one of"),
        ({"verify": "none"}, "secret must be given, unless verify is 'none'"),
        ({"secret": None}, "secret must be given, unless"),
        ({"secret": "../x"}, "secret must be the name of a secret"),
        ({"secret": "whsec_a+b/c="}, "never the secret itself"),
        ({"intent": "a b"}, "intent must be letters"),
        ({"key": "payload.id"}, "key must be body.<field>"),
        ({"ordering_key": 7}, "ordering_key must be body.<field>"),
        ({"labels": {"a": "x"}}, "labels.a must be body.<field>"),
        ({"payload": "event"}, "payload is 'event' for the format 'cloudevents' alone"),
        ({"priority": 10}, "priority must be a number from 0 to 9"),
        ({"priority": True}, "priority must be a number"),
        ({"max_bytes": 1.5}, "max_bytes must be a number"),
        ({"timeout": 0}, "timeout must be a number"),
        ({"tenant": ""}, "tenant must be the name of a tenant"),
        ({"paht": "/x"}, "paht is no field"),
    ],
)
def test_what_cannot_be_meant_of_a_webhook_is_refused(changed: dict[str, Any], sentence: str) -> None:
    table = {name: value for name, value in (HTTP | changed).items() if value is not None}
    with pytest.raises(SettingsError, match=r"^\[http.a\] .*\.$") as refused:
        sources_of({"http": {"a": table}})
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"servers": []}, "servers must be a list"),
        ({"servers": ["nats://me:secret@host:4222"]}, "without secrets"),
        ({"stream": "a.b"}, "stream must be the name of a stream"),
        ({"durable": "a b"}, "durable must be"),
        ({"batch": 0}, "batch must be a number"),
        ({"deliver": "last"}, "deliver must be one of all, new"),
        ({"verify": "none"}, "verify is no field"),
    ],
)
def test_what_cannot_be_meant_of_a_stream_is_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=r"^\[nats.a\] .*\.$") as refused:
        sources_of({"nats": {"a": NATS | changed}})
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"servers": ["kafka"]}, "servers must be a list of host:port"),
        ({"servers": ["me:secret@host:9092"]}, "without secrets"),
        ({"topic": "a b"}, "topic must be the name of a topic"),
        ({"group": ""}, "group must be the name of a group"),
        ({"tls": "yes"}, "tls must be true or false"),
        ({"ca": "ca"}, "ca is of use with tls = true alone"),
        ({"certificate": "-----BEGIN"}, "certificate must be the name of a secret"),
        ({"sasl": "GSSAPI"}, "sasl must be one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER"),
        ({"sasl": "PLAIN"}, "credentials must be given"),
        ({"credentials": "kafka"}, "sasl must be given"),
        ({"session_timeout": 1}, "session_timeout must be a number"),
        ({"batch": 1001}, "batch must be a number"),
        ({"stream": "S"}, "stream is no field"),
    ],
)
def test_what_cannot_be_meant_of_a_topic_is_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=r"^\[kafka.a\] .*\.$") as refused:
        sources_of({"kafka": {"a": KAFKA | changed}})
    assert sentence in str(refused.value)


async def test_kafka_without_its_library_is_refused_with_what_to_install(tmp_path: Path) -> None:
    file = tmp_path / "sources.toml"
    file.write_text('[kafka.shop]\nservers = ["localhost:9092"]\ntopic = "t"\nintent = "i"\n')
    without = (
        "import runpy, sys; sys.modules['aiokafka'] = None; "
        "sys.argv = ['edge']; runpy.run_module('holdfast.edge', run_name='__main__')"
    )
    told = {"HOLDFAST_SOURCES_FILE": str(file), "HOLDFAST_LISTEN": "127.0.0.1:0"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", without, stderr=asyncio.subprocess.PIPE, env={**os.environ, **told}
    )
    _, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert error.decode() == "[kafka.shop] needs a library that is not installed: install holdfast[kafka].\n"


def test_two_sources_share_neither_name_nor_path(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Two sources have the path '/h'"):
        sources_of({"http": {"a": HTTP, "b": HTTP}})
    with pytest.raises(SettingsError, match="Two sources have the name 'a'"):
        sources_of({"http": {"a": HTTP}, "nats": {"a": NATS}})
    with pytest.raises(SettingsError, match="'mqtt' is neither"):
        sources_of({"mqtt": {"a": HTTP}})
    with pytest.raises(SettingsError, match="cannot be read"):
        read_sources(tmp_path / "none")
    (tmp_path / "bad").write_text("[http")
    with pytest.raises(SettingsError, match="are not TOML"):
        read_sources(tmp_path / "bad")


async def test_a_source_that_believes_everybody_is_for_loopback_alone(tmp_path: Path) -> None:
    file = tmp_path / "sources.toml"
    file.write_text('[http.open]\npath = "/open"\nverify = "none"\nintent = "i"\n')
    told = {"HOLDFAST_SOURCES_FILE": str(file), "HOLDFAST_LISTEN": "0.0.0.0:0"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "holdfast.edge", stderr=asyncio.subprocess.PIPE, env={**os.environ, **told}
    )
    _, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert error.decode().startswith("[http.open] verify is 'none', so whoever reaches 0.0.0.0:0 could start")
