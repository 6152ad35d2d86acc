"""The outbox as its client sees it: effects, where they go, and how they fare."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from holdfast.client.number import BreakerState, DeliveryMode, EffectStatus
from holdfast.client.run import Failure


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """One attempt to deliver an effect; `duration` in seconds, `http_status` 0 if nothing was answered."""

    time: datetime | None
    http_status: int = 0
    failure: Failure | None = None
    duration: float = 0.0


@dataclass(frozen=True, slots=True)
class Effect:
    """A side-effect intent, bound for a destination."""

    effect_id: str
    destination: str
    status: EffectStatus
    run_id: str = ""
    step: str = ""
    idempotency_key: str = ""
    ordering_key: str = ""
    body: Any = None
    attempts: int = 0
    last_failure: Failure | None = None
    next_attempt_time: datetime | None = None
    create_time: datetime | None = None
    deliver_time: datetime | None = None
    history: tuple[DeliveryAttempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Breaker:
    """A destination's breaker."""

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    open_time: datetime | None = None
    probe_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Destination:
    """Where effects go; durations in seconds, and what is left at 0 takes its default.

    `url` is one of HTTP, or `grpcs://host:port/package.Service/Method` for a unary gRPC call, `grpc://…` for
    one without TLS; with `?raw` at its end bodies are the request's bytes in base64. `headers` are metadata
    then, and there is neither a secret nor a status URL. `natss://host:port/subject` publishes to a JetStream
    stream, `nats://…` without TLS; `secret_name` names the credentials then, and there is no status URL.
    """

    name: str
    url: str
    secret_name: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    max_concurrent: int = 0
    max_per_second: float = 0.0
    timeout: float = 0.0
    max_attempts: int = 0
    initial_backoff: float = 0.0
    max_backoff: float = 0.0
    delivery_mode: DeliveryMode = DeliveryMode.UNSPECIFIED
    breaker_failures: int = 0
    breaker_reset_after: float = 0.0
    breaker: Breaker | None = None
    status_url: str = ""
    max_retries_per_second: float = 0.0
