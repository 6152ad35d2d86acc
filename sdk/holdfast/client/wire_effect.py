"""The outbox between plain values and the contract's messages."""

from holdfast.client.effect import Breaker, DeliveryAttempt, Destination, Effect
from holdfast.client.number import BreakerState, DeliveryMode, EffectStatus
from holdfast.client.wire_run import failure_of
from holdfast.client.wire_value import duration_of, plain_value, seconds_of, time_of
from holdfast.v1 import effect_pb2, run_pb2


def effect_of(message: effect_pb2.Effect) -> Effect:
    """Return an effect."""
    return Effect(
        effect_id=message.effect_id,
        destination=message.destination,
        status=EffectStatus(message.status),
        run_id=message.run_id,
        step=message.step,
        idempotency_key=message.idempotency_key,
        ordering_key=message.ordering_key,
        body=plain_value(message.body),
        attempts=message.attempts,
        last_failure=failure_of(message.last_failure) if message.HasField("last_failure") else None,
        next_attempt_time=time_of(message.next_attempt_time),
        create_time=time_of(message.create_time),
        deliver_time=time_of(message.deliver_time),
        history=tuple(_attempt_of(attempt) for attempt in message.history),
    )


def destination_of(message: effect_pb2.Destination) -> Destination:
    """Return a destination."""
    return Destination(
        name=message.name,
        url=_url(message),
        secret_name=message.nats.secret_name or message.http.secret_name,
        headers=_headers(message),
        max_concurrent=message.max_concurrent,
        max_per_second=message.max_per_second,
        timeout=seconds_of(message.timeout),
        max_attempts=message.retry.max_attempts,
        initial_backoff=seconds_of(message.retry.initial_backoff),
        max_backoff=seconds_of(message.retry.max_backoff),
        delivery_mode=DeliveryMode(message.delivery_mode),
        breaker_failures=message.breaker_policy.failures,
        breaker_reset_after=seconds_of(message.breaker_policy.reset_after),
        breaker=_breaker_of(message.breaker) if message.HasField("breaker") else None,
        status_url=message.http.status_url,
        max_retries_per_second=message.max_retries_per_second,
    )


def destination_message(destination: Destination) -> effect_pb2.Destination:
    """Return a destination as the contract has it; what is 0 is left out.

    Raises `ValueError` for a gRPC destination with a secret, and for a status URL of what is not HTTP.
    """
    message = effect_pb2.Destination(
        name=destination.name,
        max_concurrent=destination.max_concurrent,
        max_per_second=destination.max_per_second,
        max_retries_per_second=destination.max_retries_per_second,
        delivery_mode=effect_pb2.DeliveryMode.ValueType(destination.delivery_mode),
    )
    if destination.url.startswith(("grpc://", "grpcs://")):
        message.grpc.CopyFrom(_grpc_endpoint(destination))
    elif destination.url.startswith(("nats://", "natss://")):
        message.nats.CopyFrom(_nats_endpoint(destination))
    else:
        http = effect_pb2.HttpEndpoint(url=destination.url, headers=destination.headers)
        http.secret_name, http.status_url = destination.secret_name, destination.status_url
        message.http.CopyFrom(http)
    if destination.timeout:
        message.timeout.CopyFrom(duration_of(destination.timeout))
    if destination.max_attempts or destination.initial_backoff or destination.max_backoff:
        message.retry.CopyFrom(_retry(destination))
    if destination.breaker_failures or destination.breaker_reset_after:
        message.breaker_policy.failures = destination.breaker_failures
        if destination.breaker_reset_after:
            message.breaker_policy.reset_after.CopyFrom(duration_of(destination.breaker_reset_after))
    return message


def _url(message: effect_pb2.Destination) -> str:
    match message.WhichOneof("endpoint"):
        case "grpc":
            return _grpc_url(message.grpc)
        case "nats":
            scheme = "nats" if message.nats.plaintext else "natss"
            return f"{scheme}://{message.nats.server}/{message.nats.subject}"
        case _:
            return message.http.url


def _headers(message: effect_pb2.Destination) -> dict[str, str]:
    if message.HasField("grpc"):
        return dict(message.grpc.metadata)
    return dict(message.nats.headers if message.HasField("nats") else message.http.headers)


def _nats_endpoint(destination: Destination) -> effect_pb2.NatsEndpoint:
    if destination.status_url:
        raise ValueError("status_url is for destinations of HTTP")
    scheme, _, rest = destination.url.partition("://")
    server, _, subject = rest.partition("/")
    return effect_pb2.NatsEndpoint(
        server=server,
        subject=subject,
        plaintext=scheme == "nats",
        secret_name=destination.secret_name,
        headers=destination.headers,
    )


def _grpc_endpoint(destination: Destination) -> effect_pb2.GrpcEndpoint:
    if destination.secret_name or destination.status_url:
        raise ValueError("secret_name and status_url are for destinations of HTTP")
    scheme, _, rest = destination.url.partition("://")
    target, _, path = rest.partition("/")
    return effect_pb2.GrpcEndpoint(
        target=target,
        method=path.removesuffix("?raw"),
        plaintext=scheme == "grpc",
        raw=path.endswith("?raw"),
        metadata=destination.headers,
    )


def _grpc_url(endpoint: effect_pb2.GrpcEndpoint) -> str:
    scheme = "grpc" if endpoint.plaintext else "grpcs"
    return f"{scheme}://{endpoint.target}/{endpoint.method}{'?raw' if endpoint.raw else ''}"


def _retry(destination: Destination) -> run_pb2.RetryPolicy:
    policy = run_pb2.RetryPolicy(max_attempts=destination.max_attempts)
    if destination.initial_backoff:
        policy.initial_backoff.CopyFrom(duration_of(destination.initial_backoff))
    if destination.max_backoff:
        policy.max_backoff.CopyFrom(duration_of(destination.max_backoff))
    return policy


def _attempt_of(message: effect_pb2.DeliveryAttempt) -> DeliveryAttempt:
    return DeliveryAttempt(
        time=time_of(message.time),
        http_status=message.http_status,
        failure=failure_of(message.failure) if message.HasField("failure") else None,
        duration=seconds_of(message.duration),
    )


def _breaker_of(message: effect_pb2.Breaker) -> Breaker:
    return Breaker(
        state=BreakerState(message.state),
        failures=message.failures,
        open_time=time_of(message.open_time),
        probe_time=time_of(message.probe_time),
    )
