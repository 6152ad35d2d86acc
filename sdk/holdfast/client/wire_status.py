"""A failed call becomes the error its status details name; whoever sent none is judged by its code."""

from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from holdfast.client.errors import BY_CODE, BY_REASON, HoldfastError, Unavailable, UnexpectedStatus, Violation

DOMAIN: Final = "holdfast.dev"
_DETAILS: Final = "grpc-status-details-bin"


def error_of(failure: grpc.aio.AioRpcError) -> HoldfastError:
    """Return the error that a failed call means."""
    code = failure.code().name
    status = _status(failure)
    info, violations, retry_after, quota = _details(status) if status is not None else (None, (), None, None)
    reason = info.reason if info is not None and info.domain == DOMAIN else ""
    kind = BY_REASON.get(reason) or BY_CODE.get(code, UnexpectedStatus)
    if kind is UnexpectedStatus and failure.code() is grpc.StatusCode.CANCELLED:
        kind = Unavailable  # not by us, or this were no error: the server was too busy, or ended
    return kind(
        failure.details() or f"The call failed with {code}.",
        code=code,
        reason=reason,
        facts=dict(info.metadata) if info is not None else {},
        violations=violations,
        retry_after=retry_after,
        quota=quota,
    )


def refusal_of(reason: str, code: int, message: str, field: str) -> HoldfastError:
    """Return the error of one refused item of a call that succeeded as a whole."""
    name = next((c.name for c in grpc.StatusCode if c.value[0] == code), "UNKNOWN")
    kind = BY_REASON.get(reason) or BY_CODE.get(name, UnexpectedStatus)
    violations = [Violation(field, message)] if field else []
    return kind(message, code=name, reason=reason, violations=violations)


def _status(failure: grpc.aio.AioRpcError) -> Any:
    for key, value in failure.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None  # a proxy's invention: the code still says what happened
    return None


def _details(status: Any) -> tuple[Any, list[Violation], float | None, str | None]:
    info, violations, retry_after, quota = None, [], None, None
    for packed in status.details:
        if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(packed.value)
        elif packed.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            request = error_details_pb2.BadRequest.FromString(packed.value)
            violations += [Violation(one.field, one.description) for one in request.field_violations]
        elif packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(packed.value).retry_delay
            retry_after = delay.seconds + delay.nanos / 1e9
        elif packed.Is(error_details_pb2.QuotaFailure.DESCRIPTOR):
            failures = error_details_pb2.QuotaFailure.FromString(packed.value).violations
            quota = failures[0].subject if failures else None
    return info, violations, retry_after, quota
