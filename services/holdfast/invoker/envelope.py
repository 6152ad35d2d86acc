"""What passes the door is whole: each malformed field of an envelope is named, at once and together."""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol

from holdfast.kit.errors import InvalidField, TenantMismatch, Violation
from holdfast.kit.ids import new_id
from holdfast.kit.rpc.payload import MAX_BYTES, PayloadError, plain_struct
from holdfast.kit.rpc.person import on_behalf_of
from holdfast.kit.telemetry import span
from holdfast.kit.telemetry.about import about_run
from holdfast.ledger.domain.lane import SESSION
from holdfast.ledger.id import ledger_id
from holdfast.ledger.values import Invocation, Limits
from holdfast.v1 import invoker_service_pb2, run_pb2

MAX_KEY_BYTES = 255
MAX_LABELS = 16
MAX_STEP_BYTES = 1000
MAX_AHEAD = timedelta(days=31)
MAX_WAIT_SECONDS = 3600
BUDGET_MAXIMA = {
    "deadline_ms": 31 * 24 * 3600 * 1000,
    "max_steps": 100_000,
    "max_tools": 100_000,
    "max_tokens": 1_000_000_000,
    "max_context": 10_000_000,
}
_SHAPES = frozenset(run_pb2.Shape.values())
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_INTENT = re.compile(r"[A-Za-z0-9_./-]{1,255}\Z")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")


class _NamesRun(Protocol):
    run_id: str


class Violations:
    """Collects what is wrong with a request; `settle` raises InvalidField naming all of it."""

    def __init__(self, prefix: str = "", found: list[Violation] | None = None) -> None:
        self._prefix = prefix
        self._found: list[Violation] = [] if found is None else found

    @property
    def found(self) -> list[Violation]:
        """What was wrong so far; another collection may go on with it."""
        return self._found

    def within(self, field: str) -> "Violations":
        """Return the same collection for the fields of a nested message."""
        return Violations(self._prefix + field, self._found)

    def add(self, field: str, description: str) -> None:
        """Note that a field is not as it must be."""
        self._found.append(Violation(self._prefix + field, description))

    def text(self, field: str, value: str, *, limit: int = MAX_KEY_BYTES) -> None:
        """Check a text field: no NUL, at most `limit` bytes."""
        if "\0" in value:
            self.add(field, "must not hold a NUL character")
        elif len(value) * 4 > limit and len(value.encode()) > limit:
            self.add(field, f"must be at most {limit:,} bytes long")

    def intent(self, field: str, value: str) -> None:
        """Check an intent's name."""
        if not _INTENT.match(value):
            self.add(field, "must be 1 to 255 letters, digits, '_', '-', '.' or '/'")

    def labels(self, field: str, labels: Mapping[str, str]) -> None:
        """Check labels."""
        if len(labels) > MAX_LABELS:
            self.add(field, f"must be at most {MAX_LABELS}")
        for key, value in labels.items():
            self.text(field, key)
            self.text(field, value)

    def not_negative(self, field: str, value: int) -> None:
        """Check a count."""
        if value < 0:
            self.add(field, "must not be negative")

    def run_id(self, field: str, value: str) -> uuid.UUID | None:
        """Check and parse a run id."""
        if not _UUID.match(value):
            self.add(field, "must be a UUID, as 123e4567-e89b-42d3-a456-426614174000")
            return None
        return ledger_id(value)

    def settle(self) -> None:
        """Raise InvalidField if anything was wrong."""
        if self._found:
            first = self._found[0]
            raise InvalidField(f"{first.field} {first.description}", violations=self._found)


def named_run(request: _NamesRun, wrong: Violations) -> uuid.UUID:
    """Return the run that a request names; raise InvalidField with all that is wrong with the request."""
    run_id = wrong.run_id("run_id", request.run_id)
    wrong.settle()
    assert run_id is not None  # settle() raised otherwise
    about_run(run_id)
    return run_id


def named_session(session_id: str) -> str:
    """Return the session that a request names. Raises InvalidField."""
    wrong = Violations()
    if not session_id:
        wrong.add("session_id", "must be given")
    wrong.text("session_id", session_id)
    wrong.settle()
    return session_id


def read_envelope(
    request: invoker_service_pb2.InvokeRequest,
    *,
    tenant: str,
    shape: run_pb2.Shape.ValueType,
    max_attempts: int,
    wrong: Violations | None = None,
    event: bool = False,
) -> Invocation:
    """Check an envelope and return it as the ledger takes it.

    `tenant` is the caller's by credential; `shape` what the run is if the envelope does not say; `wrong`
    may hold what is wrong around it. An event must carry its own idempotency key. Raises InvalidField naming
    every malformed field, and TenantMismatch if the envelope names another tenant or user.
    """
    claimed = request.caller.user
    if request.caller.tenant not in ("", tenant):
        raise TenantMismatch("caller.tenant is not the tenant of the credential")
    user = on_behalf_of(claimed)
    if user != claimed:
        request.caller.user = user
    wrong = wrong or Violations()
    # Also a new one in the driver's form: it is written as text several times on its way.
    run_id = wrong.run_id("run_id", request.run_id) if request.run_id else ledger_id(new_id().bytes)
    wrong.intent("intent", request.intent)
    if event and not request.idempotency_key:
        wrong.add("idempotency_key", "must be given: the event's own id")
    _check_texts(request, wrong)
    _check_numbers(request, wrong)
    if request.HasField("parent") and check_parent(request.parent, wrong):
        wrong.add("parent", "must be empty: only Invoke starts children")
    if request.traceparent and not span.is_traceparent(request.traceparent):
        wrong.add("traceparent", "must be a traceparent of version 00, as W3C Trace Context has it")
    fingerprint = _fingerprint(request, tenant, wrong)
    not_before = _not_before(request, wrong)
    wrong.settle()
    assert run_id is not None  # settle() raised otherwise
    request.DiscardUnknownFields()  # what nobody has checked is not kept
    return Invocation(
        run_id=run_id,
        tenant=tenant,
        user=user,
        intent=request.intent,
        shape=request.shape or shape,
        idempotency_key=request.idempotency_key or str(run_id),
        fingerprint=fingerprint,
        correlation_id=request.correlation_id,
        session_id=request.session_id,
        ordering_key=request.ordering_key,
        priority=request.priority,
        labels=dict(request.labels),
        envelope=request.SerializeToString(),
        agent_version=request.agent_version,
        limits=limits_of(request.budget, longest=(request.shape or shape) == run_pb2.SHAPE_WORKFLOW),
        not_before=not_before,
        max_attempts=max_attempts,
        handoff=limits_of(request.handoff.budget) if request.HasField("handoff") else None,
    )


def go_on_in_trace(request: invoker_service_pb2.InvokeRequest) -> None:
    """Let a run go on in the trace of the call that starts it, unless its envelope names another."""
    if not request.traceparent:
        request.traceparent = span.traceparent()


def limits_of(budget: run_pb2.Budget, *, longest: bool = False) -> Limits:
    """Return the limits of a budget, 0 where it has none; as deadline the `longest` there is, if asked."""
    default = BUDGET_MAXIMA["deadline_ms"] if longest else 0
    return Limits(
        deadline_ms=budget.deadline_ms or default,
        max_steps=budget.max_steps,
        max_tools=budget.max_tools,
        max_tokens=budget.max_tokens,
        max_context=budget.max_context,
    )


def check_budget(budget: run_pb2.Budget, wrong: Violations, prefix: str = "budget.") -> None:
    """Check each limit of a budget."""
    for name, maximum in BUDGET_MAXIMA.items():
        limit = getattr(budget, name)
        if not 0 <= limit <= maximum:
            wrong.add(prefix + name, f"must be between 0 and {maximum:,}")


def check_parent(parent: invoker_service_pb2.InvokeParent, wrong: Violations) -> bool:
    """Check each field of a child's parent; say whether all are as they must be."""
    sound = wrong.run_id("parent.run_id", parent.run_id) is not None
    if parent.epoch < 1:
        wrong.add("parent.epoch", "must be that of the parent's lease")
        sound = False
    if len(parent.step.encode()) > MAX_STEP_BYTES:
        wrong.add("parent.step", f"must be at most {MAX_STEP_BYTES:,} bytes long")
        sound = False
    if parent.on_parent_end not in run_pb2.OnParentEnd.values():
        wrong.add("parent.on_parent_end", "is not what can become of a child")
        sound = False
    return sound


def wait_seconds(
    request: invoker_service_pb2.InvokeRequest | invoker_service_pb2.AwaitRunRequest, wrong: Violations
) -> float | None:
    """Check and return how long the caller wants to wait, None if it does not say."""
    if not request.HasField("wait"):
        return None
    nanos = request.wait.nanos
    seconds = request.wait.seconds + nanos / 1e9
    if not (0 <= seconds <= MAX_WAIT_SECONDS and 0 <= nanos < 1_000_000_000):  # noqa: PLR2004
        wrong.add("wait", "must be between 0 s and 1 hour")
    return seconds


def _check_texts(request: invoker_service_pb2.InvokeRequest, wrong: Violations) -> None:
    texts: Iterable[tuple[str, str]] = (
        ("caller.tenant", request.caller.tenant),
        ("caller.user", request.caller.user),
        ("idempotency_key", request.idempotency_key),
        ("correlation_id", request.correlation_id),
        ("ordering_key", request.ordering_key),
        ("session_id", request.session_id),
        ("agent_version", request.agent_version),
    )
    for field, value in texts:
        if value:
            wrong.text(field, value)
    wrong.labels("labels", request.labels)
    if request.ordering_key.startswith(SESSION):
        wrong.add("ordering_key", "must not begin with U+0001")
    if request.ordering_key and request.session_id:
        wrong.add("ordering_key", "must be empty beside session_id: a session orders its runs already")
        wrong.add("session_id", "must be empty beside ordering_key: a session orders its runs already")


def _check_numbers(request: invoker_service_pb2.InvokeRequest, wrong: Violations) -> None:
    if request.HasField("budget"):
        check_budget(request.budget, wrong)
    if request.HasField("handoff"):
        check_budget(request.handoff.budget, wrong, "handoff.budget.")
    if not 0 <= request.priority <= 9:  # noqa: PLR2004 - the contract's range
        wrong.add("priority", "must be between 0 and 9")
    if request.shape not in _SHAPES:
        wrong.add("shape", "is not a shape")
    wait_seconds(request, wrong)


def _not_before(request: invoker_service_pb2.InvokeRequest, wrong: Violations) -> datetime | None:
    if not request.HasField("not_before"):
        return None
    try:
        moment = request.not_before.ToDatetime(UTC)
    except (ValueError, OverflowError):
        wrong.add("not_before", "is not a time")
        return None
    if moment > datetime.now(UTC) + MAX_AHEAD:
        wrong.add("not_before", f"must be at most {MAX_AHEAD.days} days ahead")
    return moment


def _fingerprint(request: invoker_service_pb2.InvokeRequest, tenant: str, wrong: Violations) -> bytes:
    """Hash what must be equal for two calls to be the same: intent, payload and caller."""
    payload = {}
    if request.payload.fields:
        if request.payload.ByteSize() > MAX_BYTES:
            wrong.add("payload", f"must be at most {MAX_BYTES:,} bytes")
        else:
            try:
                payload = plain_struct(request.payload, "payload")
            except PayloadError as error:
                wrong.add(error.field, str(error))
    same = (request.intent, tenant, request.caller.user, payload)
    return hashlib.sha256(_encode(same).encode()).digest()
