"""The file of sources: TOML, a table for each, read once and refused in one sentence that names the field.

[http.github]
path = "/hooks/github"
verify = "github"
secret = "github"                                # HOLDFAST_SECRET_GITHUB, or a mounted file
intent = "triage_issue"
ordering_key = "body.repository.full_name"
add = { event = "header.x-github-event" }

[nats.orders]
servers = ["nats://nats:4222"]
stream = "ORDERS"
intent = "check_order"

[kafka.shop]
servers = ["kafka:9092"]
topic = "orders"
intent = "check_order"
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from holdfast.edge.place import Place
from holdfast.edge.source import (
    DIGEST,
    Format,
    HttpSource,
    KafkaSource,
    Kind,
    Mapped,
    NatsSource,
    Sasl,
    Source,
    Told,
)
from holdfast.kit.declared import NAME, Fields, read_toml
from holdfast.kit.settings import SettingsError

_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_INTENT: Final = re.compile(r"[A-Za-z0-9_./-]{1,255}")
_TOKEN_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of streams and consumers
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")  # and a group of Kafka
_NATS_SERVER: Final = re.compile(r"(nats|tls)://[^\s/@?#]+:[0-9]{1,5}")
_KAFKA_SERVER: Final = re.compile(r"[^\s/@?#,]+:[0-9]{1,5}")
_HEALTH: Final = "/healthz"
_MOST_BYTES: Final = 8 * 1024 * 1024
_MOST_LABELS: Final = 16


def read_sources(file: Path) -> list[Source]:
    """Read the declarations. Raises `SettingsError`."""
    return sources_of(read_toml(file, "sources"))


def sources_of(declared: Mapping[str, Any]) -> list[Source]:
    """Read parsed declarations. Raises `SettingsError`."""
    found: list[Source] = []
    for kind, tables in declared.items():
        if kind not in _KINDS or not isinstance(tables, dict):
            raise SettingsError(
                f"Sources are tables [http.<name>], [nats.<name>], [kafka.<name>], and {kind!r} is neither."
            )
        for name, fields in tables.items():
            if not isinstance(fields, dict) or not NAME.fullmatch(name):
                raise SettingsError(
                    f"[{kind}.{name}] is no table with a name of letters, digits, '.', '_', '-'."
                )
            found.append(_KINDS[kind](_Fields(f"[{kind}.{name}]", name, fields)))
    _apart("name", [source.of.name for source in found])
    _apart("path", [source.path for source in found if isinstance(source, HttpSource)])
    return found


def _apart(what: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise SettingsError(f"Two sources have the {what} {value!r}.")
        seen.add(value)


class _Fields(Fields):
    """The fields of a source of events."""

    def place(self, field: str) -> Place | None:
        """Take a place in an event."""
        value = self._left.pop(field, None)
        return None if value is None else self._place(field, value)

    def key(self) -> Place | Literal["digest"] | None:
        """Take what stands for an event."""
        if self._left.get("key") == DIGEST:
            return self._left.pop("key")  # type: ignore[no-any-return] # the word itself
        return self.place("key")

    def places(self, field: str) -> dict[str, Place]:
        """Take places by name."""
        value = self._left.pop(field, {})
        if not isinstance(value, dict) or len(value) > _MOST_LABELS:
            raise self.refuse(field, f"must be a table of at most {_MOST_LABELS} places")
        return {name: self._place(f"{field}.{name}", one) for name, one in value.items()}

    def truth(self, field: str) -> bool:
        """Take true or false, which it is by default."""
        value = self._left.pop(field, False)
        if not isinstance(value, bool):
            raise self.refuse(field, "must be true or false")
        return value

    def servers(self, form: "re.Pattern[str]", told: str) -> tuple[str, ...]:
        """Take the addresses of servers, of the form that is told."""
        return self.texts("servers", form, f"must be a list of {told}, without secrets")

    def _place(self, field: str, value: Any) -> Place:
        try:
            return Place.of(value if isinstance(value, str) else "")
        except ValueError as error:
            raise self.refuse(field, str(error)) from error


def _mapped(fields: _Fields) -> Mapped:
    printable = re.compile(r"[^\s\x00-\x1f]{1,255}")
    mapped = Mapped(
        name=fields.name,
        intent=fields.text("intent", _INTENT, "must be letters, digits, '_', '-', '.' or '/'"),
        tenant=fields.text("tenant", printable, "must be the name of a tenant", "default"),
        token=fields.secret("token"),
        format=fields.word("format", Format, "json"),
        payload=fields.word("payload", Told, "data"),
        key=fields.key(),
        ordering_key=fields.place("ordering_key"),
        correlation_id=fields.place("correlation_id"),
        labels=fields.places("labels"),
        add=fields.places("add"),
        priority=fields.number("priority", 0, 0, 9),
    )
    if mapped.payload == "event" and mapped.format != "cloudevents":
        raise fields.refuse("payload", "is 'event' for the format 'cloudevents' alone")
    return mapped


def _http(fields: _Fields) -> HttpSource:
    source = HttpSource(
        of=_mapped(fields),
        path=fields.text("path", _PATH, "must be a path, as /hooks/github"),
        verify=fields.word("verify", Kind, None),
        secret=fields.secret("secret"),
        max_bytes=fields.number("max_bytes", 1_048_576, 1, _MOST_BYTES),
        timeout=fields.number("timeout", 10.0, 0.1, 60),
        tolerance=fields.number("tolerance", 300.0, 1, 86_400),
    )
    fields.end()
    if source.path == _HEALTH:
        raise fields.refuse("path", f"must not be {_HEALTH}")
    if (source.verify == "none") == bool(source.secret):
        raise fields.refuse("secret", "must be given, unless verify is 'none'")
    return source


def _nats(fields: _Fields) -> NatsSource:
    source = NatsSource(
        of=_mapped(fields),
        servers=fields.servers(_NATS_SERVER, "nats://host:port or tls://host:port"),
        stream=fields.text("stream", _TOKEN_NAME, "must be the name of a stream"),
        durable=fields.text(
            "durable",
            _TOKEN_NAME,
            "must be letters, digits, '_' and '-'",
            f"holdfast-{fields.name}".replace(".", "_"),
        ),
        subject=fields.text("subject", re.compile(r"[^\s]{1,255}"), "must be a subject", ""),
        credentials=fields.secret("credentials"),
        batch=fields.number("batch", 100, 1, 1000),
        ack_wait=fields.number("ack_wait", 30.0, 1, 3600),
        max_deliver=fields.number("max_deliver", 10, 1, 1000),
        deliver=fields.word("deliver", Literal["all", "new"], "all"),
    )
    fields.end()
    return source


def _kafka(fields: _Fields) -> KafkaSource:
    source = KafkaSource(
        of=_mapped(fields),
        servers=fields.servers(_KAFKA_SERVER, "host:port"),
        topic=fields.text("topic", _TOPIC, "must be the name of a topic"),
        group=fields.text("group", _TOPIC, "must be the name of a group", f"holdfast-{fields.name}"),
        tls=fields.truth("tls"),
        ca=fields.secret("ca"),
        certificate=fields.secret("certificate"),
        sasl=fields.word("sasl", Sasl, ""),
        credentials=fields.secret("credentials"),
        batch=fields.number("batch", 100, 1, 1000),
        session_timeout=fields.number("session_timeout", 10.0, 6, 1800),
        max_deliver=fields.number("max_deliver", 10, 1, 1000),
        deliver=fields.word("deliver", Literal["all", "new"], "all"),
    )
    fields.end()
    for field in ("ca", "certificate"):
        if getattr(source, field) and not source.tls:
            raise fields.refuse(field, "is of use with tls = true alone")
    if bool(source.sasl) != bool(source.credentials):
        raise fields.refuse(
            "sasl" if source.credentials else "credentials", "must be given: they go together"
        )
    return source


_KINDS: Final[Mapping[str, Callable[[_Fields], Source]]] = {"http": _http, "nats": _nats, "kafka": _kafka}
