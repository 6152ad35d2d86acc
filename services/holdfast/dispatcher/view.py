"""Effects and destinations of the ledger as messages of the contract."""

import json
from datetime import datetime, timedelta

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.dispatcher.grpc_call import is_grpc, parts_of
from holdfast.dispatcher.nats_call import is_nats
from holdfast.dispatcher.nats_call import parts_of as nats_parts_of
from holdfast.ledger.destination import DestinationView
from holdfast.ledger.domain.breaker import Breaker
from holdfast.ledger.outbox_inspect import AttemptView, EffectView
from holdfast.ledger.values import Failure
from holdfast.v1 import effect_pb2, run_pb2


def effect_message(view: EffectView) -> effect_pb2.Effect:
    """Return an effect; without body and history if the view has none."""
    return effect_pb2.Effect(
        effect_id=str(view.effect_id),
        run_id="" if view.run_id is None else str(view.run_id),
        step=view.step,
        destination=view.destination,
        idempotency_key=view.idempotency_key,
        ordering_key=view.ordering_key,
        body=None if view.body is None else _value(view.body),
        status=effect_pb2.EffectStatus.ValueType(view.status),
        attempts=view.attempts,
        last_failure=_failure(view.last_failure),
        next_attempt_time=_time(view.next_attempt_time),
        create_time=_time(view.create_time),
        deliver_time=_time(view.deliver_time),
        history=[_attempt(attempt) for attempt in view.history],
    )


def destination_message(view: DestinationView) -> effect_pb2.Destination:
    """Return a destination with its breaker."""
    of = view.destination
    message = effect_pb2.Destination(
        name=of.name,
        max_concurrent=of.max_concurrent,
        max_per_second=of.max_per_second,
        max_retries_per_second=of.max_retries_per_second,
        timeout=_duration(of.timeout_s),
        retry=run_pb2.RetryPolicy(
            max_attempts=of.retry.max_attempts,
            initial_backoff=_duration(of.retry.initial_backoff_s),
            max_backoff=_duration(of.retry.max_backoff_s),
        ),
        delivery_mode=effect_pb2.DeliveryMode.ValueType(of.mode),
        breaker_policy=effect_pb2.BreakerPolicy(
            failures=of.breaker_policy.failures,
            reset_after=_duration(of.breaker_policy.reset_after.total_seconds()),
        ),
        breaker=_breaker(view.breaker),
    )
    if is_grpc(of.url):
        target, method, plaintext, raw = parts_of(of.url)
        grpc = effect_pb2.GrpcEndpoint(target=target, method=method, plaintext=plaintext, raw=raw)
        grpc.metadata.update(of.headers)
        message.grpc.CopyFrom(grpc)
    elif is_nats(of.url):
        server, subject, without_tls = nats_parts_of(of.url)
        nats = effect_pb2.NatsEndpoint(
            server=server, subject=subject, plaintext=without_tls, secret_name=of.secret_name
        )
        nats.headers.update(of.headers)
        message.nats.CopyFrom(nats)
    else:
        http = effect_pb2.HttpEndpoint(url=of.url, secret_name=of.secret_name, status_url=of.status_url)
        http.headers.update(of.headers)
        message.http.CopyFrom(http)
    return message


def _breaker(breaker: Breaker) -> effect_pb2.Breaker:
    return effect_pb2.Breaker(
        state=effect_pb2.BreakerState.ValueType(breaker.state),
        failures=breaker.failures,
        open_time=_time(breaker.open_time),
        probe_time=_time(breaker.probe_time),
    )


def _attempt(attempt: AttemptView) -> effect_pb2.DeliveryAttempt:
    return effect_pb2.DeliveryAttempt(
        time=_time(attempt.attempt_time),
        http_status=attempt.http_status,
        failure=_failure(attempt.failure),
        duration=_duration(attempt.duration_s),
    )


def _failure(failure: Failure | None) -> run_pb2.Failure | None:
    if failure is None:
        return None
    return run_pb2.Failure(
        reason=failure.reason, message=failure.message, step=failure.step, attempts=failure.attempts
    )


def _value(body: bytes) -> Value:
    value = Value()
    json_format.ParseDict(json.loads(body), value)
    return value


def _time(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message


def _duration(seconds: float) -> Duration:
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message
