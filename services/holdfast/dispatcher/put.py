"""A destination as a client asks for it becomes one as the ledger keeps it, or is refused field by field."""

import math
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from holdfast.dispatcher.grpc_call import url_of
from holdfast.dispatcher.nats_call import SUBJECT
from holdfast.dispatcher.nats_call import url_of as nats_url_of
from holdfast.dispatcher.request import KEY, RESERVED_HEADERS
from holdfast.dispatcher.secret import is_secret_name
from holdfast.kit.rpc.violation import Violations
from holdfast.ledger.destination import DEFAULT_RETRIES_PER_SECOND, Destination
from holdfast.ledger.domain.breaker import BreakerPolicy
from holdfast.ledger.domain.delivery import DeliveryMode, RetryPolicy
from holdfast.v1 import effect_pb2, run_pb2

_FIELD_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")  # a token of RFC 9110
_METADATA_KEY: Final = re.compile(r"[0-9a-z_.-]{1,100}")
_TARGET: Final = re.compile(r"[^\s/?#@\\%]{1,255}:[0-9]{1,5}")
_METHOD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,255}/[A-Za-z_][A-Za-z0-9_]{0,255}")
_MOST_HEADERS: Final = 32
_LONGEST_VALUE: Final = 1024
_LONGEST_URL: Final = 2048
_HOUR: Final = 3600.0
_SLOWEST: Final = 0.001  # calls a second
_FASTEST: Final = 100_000


def destination_from(tenant: str, asked: effect_pb2.Destination) -> Destination:
    """Read and check a destination. Raises `InvalidField`."""
    violations = Violations()
    mode = _mode(violations, asked.delivery_mode)
    url, headers = _endpoint(violations, asked)
    if mode is DeliveryMode.CONFIRM and asked.WhichOneof("endpoint") in ("grpc", "nats"):
        violations.add("destination.delivery_mode", "must not be CONFIRM but for HTTP")
        mode = DeliveryMode.AT_LEAST_ONCE
    destination = Destination(
        tenant=tenant,
        name=violations.text("destination.name", asked.name),
        url=url,
        secret_name=_secret_name(violations, asked),
        headers=headers,
        max_concurrent=violations.number(
            "destination.max_concurrent", asked.max_concurrent, default=16, most=1000
        ),
        max_per_second=_rate(violations, "destination.max_per_second", asked.max_per_second, "no limit"),
        timeout_s=violations.seconds(
            "destination.timeout", asked.timeout, given=asked.HasField("timeout"), default=10.0, most=60.0
        ),
        retry=_retry(violations, asked.retry),
        mode=mode,
        breaker_policy=_breaker_policy(violations, asked.breaker_policy),
        status_url=_status_url(violations, asked.http.status_url, mode),
        max_retries_per_second=_rate(
            violations, "destination.max_retries_per_second", asked.max_retries_per_second, "the default"
        )
        or DEFAULT_RETRIES_PER_SECOND,
    )
    violations.check()
    return destination


def _endpoint(violations: Violations, asked: effect_pb2.Destination) -> tuple[str, dict[str, str]]:
    """Return where effects go, as a URL, and what each call carries."""
    match asked.WhichOneof("endpoint"):
        case "http":
            violations.text("destination.http.url", asked.http.url, longest=_LONGEST_URL)
            return asked.http.url, _headers(violations, "destination.http.headers", asked.http.headers)
        case "grpc":
            return _grpc_url(violations, asked.grpc), _metadata(violations, asked.grpc.metadata)
        case "nats":
            return _nats_url(violations, asked.nats), _nats_headers(violations, asked.nats.headers)
        case _:
            violations.add("destination.http", "must be given, or grpc, or nats: it says where effects go")
            return "", {}


def _grpc_url(violations: Violations, asked: effect_pb2.GrpcEndpoint) -> str:
    if not _TARGET.fullmatch(asked.target):
        violations.add("destination.grpc.target", "must be host:port")
    if not _METHOD.fullmatch(asked.method):
        violations.add("destination.grpc.method", "must be package.Service/Method")
    return url_of(asked.target, asked.method, plaintext=asked.plaintext, raw=asked.raw)


def _nats_url(violations: Violations, asked: effect_pb2.NatsEndpoint) -> str:
    if not _TARGET.fullmatch(asked.server):
        violations.add("destination.nats.server", "must be host:port")
    if not SUBJECT.fullmatch(asked.subject):
        violations.add(
            "destination.nats.subject", "must be names of letters, digits, '_' and '-' with dots between"
        )
    return nats_url_of(asked.server, asked.subject, plaintext=asked.plaintext)


def _nats_headers(violations: Violations, asked: Mapping[str, str]) -> dict[str, str]:
    field = "destination.nats.headers"
    for name in asked:
        if name.lower().startswith("nats-"):
            violations.add(f"{field}[{name[:100]}]", "is NATS's own")
    return _headers(violations, field, asked)


def _metadata(violations: Violations, asked: Mapping[str, str]) -> dict[str, str]:
    field = "destination.grpc.metadata"
    for key in asked:
        if not _METADATA_KEY.fullmatch(key) or key.startswith("grpc-") or key.endswith("-bin"):
            violations.add(f"{field}[{key[:100]}]", "must be a key of lower case, of text and none of gRPC's")
    return _headers(violations, field, asked)


def _secret_name(violations: Violations, asked: effect_pb2.Destination) -> str:
    kind, endpoint = ("nats", asked.nats) if asked.HasField("nats") else ("http", asked.http)
    name: str = endpoint.secret_name
    if name and not is_secret_name(name):
        violations.add(
            f"destination.{kind}.secret_name",
            "must be at most 64 letters, digits, dots, dashes and underscores",
        )
    return name


def _headers(violations: Violations, field: str, headers: Mapping[str, str]) -> dict[str, str]:
    if len(headers) > _MOST_HEADERS:
        violations.add(field, f"must be at most {_MOST_HEADERS}")
    if len({name.lower() for name in headers}) < len(headers):
        violations.add(field, "must not name a header twice")
    for name, value in headers.items():
        where = f"{field}[{name[:100]}]"
        if not _FIELD_NAME.fullmatch(name):
            violations.add(where, "must be the name of an HTTP header")
        elif name.lower() in RESERVED_HEADERS:
            violations.add(where, "is set by Holdfast or must not be fixed")
        elif len(value) > _LONGEST_VALUE or not value.isascii() or not value.isprintable():
            violations.add(where, f"must have a value of at most {_LONGEST_VALUE} printable ASCII characters")
        elif value != value.strip():
            violations.add(where, "must have a value without spaces at its ends")
    return dict(headers)


def _rate(violations: Violations, field: str, rate: float, zero: str) -> float:
    if math.isnan(rate) or (rate != 0 and not _SLOWEST <= rate <= _FASTEST):
        violations.add(field, f"must be from {_SLOWEST} to {_FASTEST}, or 0 for {zero}")
    return rate


def _status_url(violations: Violations, url: str, mode: DeliveryMode) -> str:
    field = "destination.http.status_url"
    if mode is DeliveryMode.CONFIRM:
        violations.text(field, url, longest=_LONGEST_URL)
        if url and KEY not in url.partition("://")[2].partition("/")[2]:
            violations.add(field, f"must have {KEY}, for the idempotency key, in its path or query")
    elif url:
        violations.add(field, "is for the delivery mode CONFIRM alone")
    return url


def _retry(violations: Violations, asked: run_pb2.RetryPolicy) -> RetryPolicy:
    initial = violations.seconds(
        "destination.retry.initial_backoff",
        asked.initial_backoff,
        given=asked.HasField("initial_backoff"),
        default=0.1,
        most=_HOUR,
    )
    longest = violations.seconds(
        "destination.retry.max_backoff",
        asked.max_backoff,
        given=asked.HasField("max_backoff"),
        default=max(300.0, initial),
        most=24 * _HOUR,
    )
    if longest < initial:
        violations.add("destination.retry.max_backoff", "must not be shorter than initial_backoff")
    attempts = violations.number("destination.retry.max_attempts", asked.max_attempts, default=12, most=1000)
    return RetryPolicy(attempts, initial, longest)


def _mode(violations: Violations, mode: int) -> DeliveryMode:
    if mode == effect_pb2.DELIVERY_MODE_UNSPECIFIED:
        return DeliveryMode.AT_LEAST_ONCE
    try:
        return DeliveryMode(mode)
    except ValueError:
        violations.add("destination.delivery_mode", "must be one of DeliveryMode")
        return DeliveryMode.AT_LEAST_ONCE


def _breaker_policy(violations: Violations, asked: effect_pb2.BreakerPolicy) -> BreakerPolicy:
    failures = violations.number("destination.breaker_policy.failures", asked.failures, default=5, most=1000)
    reset_after = violations.seconds(
        "destination.breaker_policy.reset_after",
        asked.reset_after,
        given=asked.HasField("reset_after"),
        default=30.0,
        most=_HOUR,
    )
    return BreakerPolicy(failures, timedelta(seconds=reset_after))
