"""A server takes so many calls at once, and so many of a tenant; the rest are told to come again.

Each call holds memory and perhaps a connection to the ledger, so what is not bounded here is bounded by the
process dying. Health, reflection and what only the platform may call (runners, KEDA) always get in and are
not counted: a crowd of callers that wait for runs must not keep out who executes them.
"""

from collections import Counter
from typing import Any, Final

from holdfast.kit.auth.rule import RULES
from holdfast.kit.bounds import Bounds
from holdfast.kit.errors import TooManyCalls
from holdfast.kit.rpc.layer import EXEMPT, Behaviour, Context, Layer
from holdfast.kit.rpc.tenant import current_tenant

AGAIN: Final = 1.0
"""Seconds after which a refused call may come again."""


class CrowdLayer(Layer):
    """Counts the calls in flight, and refuses those beyond the bounds; belongs inside of the identity."""

    def __init__(self, bounds: Bounds) -> None:
        super().__init__()
        self._bounds = bounds
        self._calls = 0
        self._tenants: Counter[str] = Counter()
        self._methods: Counter[tuple[str, str]] = Counter()

    def around(self, method: str, inner: Behaviour) -> Behaviour:
        """Await `inner` if there is room for the call."""
        if method.startswith(EXEMPT):
            return inner
        rule = RULES.get(method)
        if rule is not None and rule.platform:
            return inner
        most = self._bounds.by_method.get(method, 0)

        async def counted(request: Any, context: Context) -> Any:
            tenant = current_tenant()
            self._enter(method, most, tenant)
            try:
                return await inner(request, context)
            finally:
                self._leave(method, most, tenant)

        return counted

    def _enter(self, method: str, most: int, tenant: str) -> None:
        bounds = self._bounds
        if bounds.calls and self._calls >= bounds.calls:
            raise _refusal("The server has as many calls in flight as it takes.", "calls", bounds.calls)
        if bounds.calls_per_tenant and self._tenants[tenant] >= bounds.calls_per_tenant:
            raise _refusal(
                "The tenant has as many calls in flight as the server takes of one.",
                "calls_per_tenant",
                bounds.calls_per_tenant,
            )
        if most and self._methods[method, tenant] >= most:
            raise _refusal(
                "The tenant has as many of these calls in flight as the server takes of one.",
                "calls_by_method",
                most,
            )
        self._calls += 1
        self._tenants[tenant] += 1
        if most:
            self._methods[method, tenant] += 1

    def _leave(self, method: str, most: int, tenant: str) -> None:
        self._calls -= 1
        _less(self._tenants, tenant)
        if most:
            _less(self._methods, (method, tenant))


def _less(counts: "Counter[Any]", key: object) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]  # names of tenants may be the callers' to invent


def _refusal(message: str, quota: str, limit: int) -> TooManyCalls:
    return TooManyCalls(message, facts={"limit": str(limit)}, quota=quota, retry_after=AGAIN)
