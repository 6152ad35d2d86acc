"""A source as the operator declares it: where its events come from, and what becomes of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from holdfast.edge.place import Place

Format = Literal["json", "cloudevents"]
Told = Literal["data", "event"]
Kind = Literal["standard-webhooks", "github", "stripe", "none"]
Sasl = Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
DIGEST = "digest"
"""As `key`: the hash of what was received."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """What becomes of an event: which run it starts, for whom, and what stands for it."""

    name: str
    intent: str
    tenant: str = "default"
    token: str = ""
    """The name of the secret with the API token; empty for a suite without identity."""
    format: Format = "json"
    payload: Told = "data"
    key: Place | Literal["digest"] | None = None
    ordering_key: Place | None = None
    correlation_id: Place | None = None
    labels: Mapping[str, Place] = field(default_factory=dict)
    add: Mapping[str, Place] = field(default_factory=dict)
    priority: int = 0


@dataclass(frozen=True, slots=True)
class HttpSource:
    """Webhooks under a path; times in seconds."""

    of: Mapped
    path: str
    verify: Kind
    secret: str = ""
    max_bytes: int = 1_048_576
    timeout: float = 10.0
    tolerance: float = 300.0

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of its own secrets; empty where it has none."""
        return (self.secret,)


@dataclass(frozen=True, slots=True)
class NatsSource:
    """Messages of a JetStream stream, read by a durable consumer; times in seconds."""

    of: Mapped
    servers: tuple[str, ...]
    stream: str
    durable: str
    subject: str = ""
    credentials: str = ""
    batch: int = 100
    ack_wait: float = 30.0
    max_deliver: int = 10
    deliver: Literal["all", "new"] = "all"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of its own secrets; empty where it has none."""
        return (self.credentials,)


@dataclass(frozen=True, slots=True)
class KafkaSource:
    """Messages of a topic of Kafka, read by a consumer group; times in seconds."""

    of: Mapped
    servers: tuple[str, ...]
    topic: str
    group: str
    tls: bool = False
    ca: str = ""
    certificate: str = ""
    sasl: Sasl = ""
    credentials: str = ""
    batch: int = 100
    session_timeout: float = 10.0
    max_deliver: int = 10
    deliver: Literal["all", "new"] = "all"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of its own secrets; empty where it has none."""
        return (self.ca, self.certificate, self.credentials)


Source = HttpSource | NatsSource | KafkaSource
