"""Every call is somebody's: proved by its credential, held against the RPC's rule, and of one tenant.

Without identity it is whoever its metadata names (`kit.rpc.tenant`, `kit.rpc.person`).

A stream lives no longer than what proved who reads it: it is asked for again from time to time, and once it
does not verify any more the stream ends.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from holdfast.kit.auth.access import Access
from holdfast.kit.auth.capability import HEADER as CAPABILITY
from holdfast.kit.auth.capability import show
from holdfast.kit.auth.credential import HEADER, Authenticator, bearer
from holdfast.kit.auth.identity import Identity, enter
from holdfast.kit.auth.role import RUNNER
from holdfast.kit.auth.rule import RULES, Rule
from holdfast.kit.errors import (
    CapabilityRefused,
    Fault,
    PermissionDenied,
    TenantMismatch,
    Unauthenticated,
    Unavailable,
)
from holdfast.kit.rpc.layer import EXEMPT, Behaviour, Context, Handler, Layer
from holdfast.kit.rpc.tenant import DEFAULT, TenantLayer, be_tenant, named_tenant

COMMIT: Final = "/holdfast.v1.CheckpointService/Commit"
CARRIED: Final = "tokenFromEnv"
"""Where KEDA puts a token: it resolves a name that ends so from the environment of what it scales."""
RECHECK: Final = 30.0
"""Seconds after which a stream's credential is looked at again."""


class IdentityLayer(Layer):
    """Knows who calls, refuses who may not, and sets the tenant."""

    def __init__(self, access: Access, *, recheck: float = RECHECK) -> None:
        super().__init__()
        self._credentials = access.credentials
        self._capabilities = access.capabilities
        self._open = TenantLayer()
        self._streams: set[str] = set()
        self._recheck = recheck

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Note which methods stream."""
        if handler.request_streaming or handler.response_streaming:
            self._streams.add(method)
        return super().wrap(method, handler)

    def around(self, method: str, inner: Behaviour) -> Behaviour:
        """Find out who calls, and await `inner` if they may."""
        credentials = self._credentials
        if credentials is None or method.startswith(EXEMPT):
            return self._open.around(method, inner)
        rule = RULES.get(method)
        streams = method in self._streams

        async def identified(request: Any, context: Context) -> Any:
            secret = _secret(rule, request, context)
            identity = await credentials.identify(secret)
            check(rule, identity)
            enter(identity)  # the task is the call's own: nothing to reset
            be_tenant(tenant_of(identity, context))
            if rule is not None and rule.leased:
                self._lease(method, identity, context)
            if not streams:
                return await inner(request, context)
            async with _while_it_verifies(credentials, secret, identity, self._recheck):
                return await inner(request, context)

        return identified

    def _lease(self, method: str, identity: Identity, context: Context) -> None:
        """Take the capability that a runner's call about one run comes with; its tenant is the call's.

        Commits carry theirs one by one.
        """
        shown = [value for key, value in context.invocation_metadata() or () if key == CAPABILITY]
        if self._capabilities is not None and len(shown) == 1 and isinstance(shown[0], str):
            capability = self._capabilities.verify(shown[0])
            show(capability)
            if identity.is_platform:
                be_tenant(capability.tenant)
        elif identity.held == {RUNNER} and method != COMMIT:
            raise CapabilityRefused("A runner's call about a run needs the capability of its lease.")


def _secret(rule: Rule | None, request: Any, context: Context) -> str:
    """Return the credential of a call, which a `carried` one may have in its trigger's metadata."""
    metadata = context.invocation_metadata() or ()
    if rule is not None and rule.carried and not any(key == HEADER for key, _ in metadata):
        ref = getattr(request, "scaledObjectRef", request)
        carried = ref.scalerMetadata.get(CARRIED, "").strip()
        if carried:
            metadata = (*metadata, (HEADER, f"Bearer {carried}"))
    return bearer(metadata)


def check(rule: Rule | None, identity: Identity) -> None:
    """Raise `PermissionDenied` unless a caller may make a call of this rule."""
    if rule is None:
        raise PermissionDenied("Nobody may call this: it has no rule.")
    if rule.roles and not rule.roles & identity.held:
        needed = ", ".join(sorted(rule.roles))
        raise PermissionDenied(f"This call takes one of the roles: {needed}.", facts={"roles": needed})
    if rule.platform and not identity.is_platform:
        raise PermissionDenied("This call takes a credential of the platform.")


def tenant_of(identity: Identity, context: Context) -> str:
    """Return the tenant of a call: the credential's, or which one of the platform names.

    Raises `TenantMismatch` if the call names another.
    """
    named = named_tenant(context)
    if identity.is_platform:
        return named or DEFAULT
    if named not in ("", identity.tenant):
        raise TenantMismatch("The tenant of this call is not the tenant of its credential.")
    return identity.tenant


@asynccontextmanager
async def _while_it_verifies(
    credentials: Authenticator, secret: str, identity: Identity, recheck: float
) -> AsyncIterator[None]:
    async def watch(limit: asyncio.Timeout) -> None:
        known = identity
        while True:
            left = recheck if known.expires is None else min(recheck, known.expires - time.time())
            await asyncio.sleep(max(0.0, left))
            try:
                known = await credentials.identify(secret)
            except Unavailable:
                continue  # nothing is known against it
            except Fault:
                limit.reschedule(asyncio.get_running_loop().time())
                return

    limit = asyncio.timeout(None)
    watching = None
    try:
        async with limit:
            watching = asyncio.create_task(watch(limit))
            yield
    except TimeoutError:
        if limit.expired():
            raise Unauthenticated("The credential does not verify any more.") from None
        raise
    finally:
        if watching is not None:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
