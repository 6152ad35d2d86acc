"""Tenants between the contract's messages and the ledger's values."""

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration

from holdfast.invoker.envelope import BUDGET_MAXIMA
from holdfast.kit.errors import InvalidField
from holdfast.kit.rpc.run import timestamp
from holdfast.kit.rpc.tenant import valid_tenant
from holdfast.kit.rpc.violation import Violations
from holdfast.ledger.domain.tenant import Terms, intent_caps, user_caps
from holdfast.ledger.tenant import TenantView
from holdfast.ledger.tenant_queue import IntentQueue, TenantQueue
from holdfast.v1 import run_pb2, tenant_pb2

_DEFAULTS: Final = Terms()
_INTENT: Final = re.compile(r"[A-Za-z0-9_./-]{1,255}\Z")
_SLOWEST: Final = 0.001
_FASTEST: Final = 100_000.0
_MAXIMA: Final = {"weight": 1000, "max_in_flight": 1_000_000, "max_queued": 100_000_000}
_MOST_AT_ONCE: Final = 1_000_000
_BY_INTENT: Final = "max_in_flight_by_intent"
_PER_USER: Final = "max_in_flight_per_user"
_BY_USER: Final = "max_in_flight_by_user"
_MOST_CAPS: Final = 1000
_SHAPES: Final = ("service", "worker", "workflow", "batch")
_LONGEST_KEPT_DAYS: Final = 36_500
_LONGEST_USER: Final = 255

PATHS: Final[dict[str, str]] = {
    **{name: name for name in _MAXIMA},
    "rate.runs_per_second": "rate",
    "rate.burst": "burst",
    **{f"default_budget.{name}": name for name in BUDGET_MAXIMA},
    "alert_destination": "alert_destination",
    _BY_INTENT: "intent_caps",
    **{f"retention.{shape}": f"keep_{shape}_s" for shape in _SHAPES},
    _PER_USER: "user_cap",
    _BY_USER: "user_caps",
}
"""The limits of a tenant: each field of the message, and what `Terms` calls it."""


def read_name(wrong: Violations, field: str, name: str) -> str:
    """Check a tenant's name."""
    try:
        return valid_tenant(name, field)
    except InvalidField as fault:
        for violation in fault.violations:
            wrong.add(violation.field, violation.description)
        return name


def paths_of(wrong: Violations, mask: Iterable[str]) -> list[str]:
    """Return the limits that a mask names, each by itself."""
    paths: list[str] = []
    named = list(mask)
    for name in named:
        meant = [path for path in PATHS if path == name or path.startswith(f"{name}.")]
        if not meant:
            wrong.add("update_mask", f"names {name!r}, which is no limit that can be changed")
        paths += meant
    if not named:
        wrong.add("update_mask", "must name the limits that change")
    return paths


def read_terms(wrong: Violations, tenant: tenant_pb2.Tenant, paths: Iterable[str]) -> dict[str, Any]:
    """Check these limits and return them; those at 0 as the platform's defaults."""
    return {PATHS[path]: _read(wrong, tenant, path) for path in paths}


def _read(wrong: Violations, tenant: tenant_pb2.Tenant, path: str) -> int | float | str | None:
    if path == _BY_INTENT:
        return intent_caps(_caps(wrong, path, dict(tenant.max_in_flight_by_intent)))
    if path in (_PER_USER, _BY_USER):
        return _of_users(wrong, tenant, path)
    if path == "alert_destination":
        return wrong.text(f"tenant.{path}", tenant.alert_destination, required=False)
    holder, _, name = path.rpartition(".")
    if holder == "retention":
        return _kept(wrong, tenant.retention, name)
    value: int | float = getattr(getattr(tenant, holder) if holder else tenant, name)
    default: int | float = getattr(_DEFAULTS, PATHS[path])
    field = f"tenant.{path}"
    if path == "rate.runs_per_second":
        if value != 0 and not _SLOWEST <= value <= _FASTEST:
            wrong.add(field, f"must be from {_SLOWEST:g} to {_FASTEST:,.0f}, or 0 for the default")
        return value or default
    most = _MOST_AT_ONCE if path == "rate.burst" else _MAXIMA.get(path) or BUDGET_MAXIMA[name]
    return wrong.number(field, int(value), default=int(default), most=most)


def _of_users(wrong: Violations, tenant: tenant_pb2.Tenant, path: str) -> int | str | None:
    if path == _BY_USER:
        return user_caps(_caps(wrong, path, dict(tenant.max_in_flight_by_user)))
    most = tenant.max_in_flight_per_user
    if not 0 <= most <= _MAXIMA["max_in_flight"]:
        wrong.add(f"tenant.{path}", f"must be from 1 to {_MAXIMA['max_in_flight']:,}, or 0 for no such cap")
    return most or None


def _caps(wrong: Violations, path: str, caps: dict[str, int]) -> dict[str, int]:
    field = f"tenant.{path}"
    if len(caps) > _MOST_CAPS:
        wrong.add(field, f"must have at most {_MOST_CAPS:,} entries")
        return {}
    for name, most in caps.items():
        if path == _BY_INTENT and not _INTENT.match(name):
            wrong.add(field, "must name intents: 1 to 255 letters, digits, _ . / and -")
        elif path == _BY_USER and not _names_a_user(name):
            wrong.add(field, f"must name users: 1 to {_LONGEST_USER} bytes, printable")
        elif not 1 <= most <= _MAXIMA["max_in_flight"]:
            wrong.add(f"{field}[{name}]", f"must be from 1 to {_MAXIMA['max_in_flight']:,}")
    return caps


def _kept(wrong: Violations, given: tenant_pb2.Retention, shape: str) -> float | None:
    kept: Duration = getattr(given, shape)
    seconds = kept.seconds + kept.nanos / 1e9
    if seconds and not 1 <= seconds <= _LONGEST_KEPT_DAYS * 86_400:
        wrong.add(
            f"tenant.retention.{shape}",
            f"must be from 1 s to {_LONGEST_KEPT_DAYS:,} days, or 0 for the platform's default",
        )
    return seconds or None


def _names_a_user(name: str) -> bool:
    return bool(name) and len(name.encode()) <= _LONGEST_USER and name.isprintable()


def tenant_message(view: TenantView) -> tenant_pb2.Tenant:
    """Return a tenant."""
    terms = view.terms
    budget = terms.budget
    return tenant_pb2.Tenant(
        tenant=view.tenant,
        weight=terms.weight,
        max_in_flight=terms.max_in_flight,
        max_queued=terms.max_queued,
        rate=tenant_pb2.RateLimit(runs_per_second=terms.rate, burst=terms.room),
        default_budget=run_pb2.Budget(**{name: getattr(budget, name) for name in BUDGET_MAXIMA}),
        alert_destination=terms.alert_destination,
        max_in_flight_by_intent=terms.by_intent,
        retention=_retention(terms),
        max_in_flight_per_user=terms.user_cap or 0,
        max_in_flight_by_user=terms.by_user,
        create_time=timestamp(view.create_time),
        update_time=timestamp(view.update_time),
    )


def statistics_message(
    queue: TenantQueue, intents: Iterable[IntentQueue] = ()
) -> tenant_pb2.TenantStatistics:
    """Return a tenant's queue, whole and by intent."""
    whole = tenant_pb2.QueueStatistics(
        queued=queue.queued,
        oldest_age=_age(queue.oldest_age),
        in_flight=queue.in_flight,
        parked=queue.parked,
        dead_lettered=queue.dead_lettered,
        refused_queue_full=queue.refused_queue_full,
        refused_rate=queue.refused_rate,
        throttled=queue.throttled,
    )
    parts = [
        tenant_pb2.IntentStatistics(
            intent=one.intent,
            queue=tenant_pb2.QueueStatistics(queued=one.queued, oldest_age=_age(one.oldest_age)),
        )
        for one in intents
    ]
    return tenant_pb2.TenantStatistics(
        tenant=queue.tenant, queue=whole, intents=parts, snapshot_time=timestamp(queue.now)
    )


def _retention(terms: Terms) -> tenant_pb2.Retention | None:
    given = {}
    for shape in _SHAPES:
        seconds = getattr(terms, f"keep_{shape}_s")
        if seconds is not None:
            given[shape] = _duration(timedelta(seconds=seconds))
    return tenant_pb2.Retention(**given) if given else None


def _age(age: timedelta | None) -> Duration | None:
    return None if age is None else _duration(max(age, timedelta()))


def _duration(time: timedelta) -> Duration:
    message = Duration()
    message.FromTimedelta(time)
    return message
