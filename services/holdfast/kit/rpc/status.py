"""A fault becomes a `google.rpc.Status` that always arrives: its details stay within the metadata limit."""

from collections.abc import Sequence
from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from holdfast.kit.errors import Fault, Violation

DOMAIN: Final = "holdfast.dev"
LIMIT: Final = 4096
"""Bytes of a serialised status. Above about 8 KB of metadata peers drop a call's trailers, or the call."""

PASSING: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)
"""How calls fail that may be repeated. Our own cancelling has no status: CANCELLED is what gRPC's server says
to what reaches it while it stops."""

_MESSAGE_LIMIT: Final = 1024
_TEXT_LIMIT: Final = 256
_FACTS_LIMIT: Final = 1536


def to_status(fault: Fault) -> status_pb2.Status:
    """Return the status of a fault: code, message, `ErrorInfo`, and what else the fault says of itself.

    Long texts are cut, and violations beyond the limit are left out with a last one that says how many.
    """
    details: list[Message] = [_error_info(fault)]
    if fault.retry_after is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=_duration(fault.retry_after)))
    if fault.quota is not None:
        failure = error_details_pb2.QuotaFailure.Violation(
            subject=_cut(fault.quota, _TEXT_LIMIT), description=_cut(fault.message, _TEXT_LIMIT)
        )
        details.append(error_details_pb2.QuotaFailure(violations=[failure]))
    status = status_pb2.Status(
        code=code_pb2.Code.Value(fault.status.value), message=_cut(fault.message, _MESSAGE_LIMIT)
    )
    for detail in details:
        status.details.append(_packed(detail))
    if fault.violations:
        status.details.append(_packed(_bad_request(fault.violations, LIMIT - status.ByteSize() - 128)))
    return status


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Return the reason of a status that a service of ours has sent; the code's name if it has none."""
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return str(info.reason)
    return str(error.code().name)


def to_grpc(fault: Fault) -> grpc.Status:
    """Return the same for `context.abort_with_status`."""
    return rpc_status.to_status(to_status(fault))  # type: ignore[no-any-return]


def _error_info(fault: Fault) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo(reason=fault.reason, domain=DOMAIN)
    room = _FACTS_LIMIT
    for name, value in fault.facts.items():
        text = _cut(value, max(0, min(1024, room - len(name))))
        room -= len(name) + len(text.encode())
        if room < 0:
            break
        info.metadata[name] = text
    return info


def _bad_request(violations: Sequence[Violation], room: int) -> error_details_pb2.BadRequest:
    request = error_details_pb2.BadRequest()
    for number, violation in enumerate(violations):
        request.field_violations.add(
            field=_cut(violation.field, _TEXT_LIMIT), description=_cut(violation.description, _TEXT_LIMIT)
        )
        if request.ByteSize() > room:
            del request.field_violations[number]
            left_out = len(violations) - number
            request.field_violations.add(description=f"{left_out} more violations are not listed")
            break
    return request


def _cut(text: str, limit: int) -> str:
    """Shorten to `limit` bytes of UTF-8; what no UTF-8 can hold is replaced."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: max(0, limit - 3)].decode(errors="ignore") + "…"


def _duration(seconds: float) -> duration_pb2.Duration:
    nanoseconds = round(max(0.0, seconds) * 1e9)
    return duration_pb2.Duration(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
