"""Serves `AccessService`: who calls, the tokens by which programs do, and the audit of what they did."""

from typing import Any, Final
from uuid import UUID

import grpc

from holdfast.invoker.access_message import read_wanted, record_message, token_message
from holdfast.invoker.parts import Parts
from holdfast.invoker.tenant_message import read_name
from holdfast.kit.auth.identity import EVERY, Identity, current_identity
from holdfast.kit.auth.role import ADMIN, ROLES, RUNNER, SCALER
from holdfast.kit.auth.token import hash_of, new_secret
from holdfast.kit.errors import PermissionDenied
from holdfast.kit.rpc.page import cursor_of, size_of, token_of
from holdfast.kit.rpc.person import said_caller
from holdfast.kit.rpc.tenant import current_tenant
from holdfast.kit.rpc.violation import Violations
from holdfast.ledger import access_token, audit
from holdfast.v1 import access_service_pb2 as pb
from holdfast.v1.access_service_pb2_grpc import AccessServiceServicer as Contract

Context = grpc.aio.ServicerContext[Any, Any]

_FIRST: Final = UUID(int=0)
_LAST: Final = 2**63 - 1


class AccessServicer(Contract):
    """Who may come in."""

    def __init__(self, parts: Parts) -> None:
        self._db = parts.db

    async def WhoAmI(self, _request: pb.WhoAmIRequest, context: Context) -> pb.WhoAmIResponse:  # noqa: N802 - the contract's names
        """Say who calls."""
        me = _me(context)
        return pb.WhoAmIResponse(
            tenant=current_tenant(),
            user=me.user,
            groups=sorted(me.groups),
            roles=sorted(me.roles),
            platform=me.is_platform,
            credential=me.credential,
        )

    async def CreateToken(  # noqa: N802
        self, request: pb.CreateTokenRequest, context: Context
    ) -> pb.CreateTokenResponse:
        """Make a token."""
        me = _me(context)
        wrong = Violations()
        wanted = read_wanted(wrong, request, request.tenant or current_tenant())
        wrong.check()
        _demand(me, wanted.tenant)
        for role in (RUNNER, SCALER):
            if role in wanted.roles and wanted.tenant != EVERY:
                wrong.add("roles", f"{role} goes with the tenant * only: it is about the work of all")
        wrong.check()
        secret = new_secret()
        async with self._db.connection() as connection:
            made = await access_token.create(connection, wanted, hash_of(secret), by=me.user)
        return pb.CreateTokenResponse(secret=secret, token=token_message(made))

    async def ListTokens(  # noqa: N802
        self, request: pb.ListTokensRequest, context: Context
    ) -> pb.ListTokensResponse:
        """List tokens."""
        wrong = Violations()
        tenant = _of(request.tenant, wrong)
        size = size_of(wrong, request.page_size)
        cursor = cursor_of(wrong, "tokens", request.page_token)
        after = wrong.uuid("page_token", cursor) if cursor else _FIRST
        wrong.check()
        _demand(_me(context), tenant)
        async with self._db.connection() as connection:
            views = await access_token.page(connection, tenant, after=after, limit=size + 1)
        more = len(views) > size
        return pb.ListTokensResponse(
            tokens=[token_message(view) for view in views[:size]],
            next_page_token=token_of("tokens", str(views[size - 1].token_id)) if more else "",
        )

    async def RevokeToken(  # noqa: N802
        self, request: pb.RevokeTokenRequest, context: Context
    ) -> pb.RevokeTokenResponse:
        """End a token."""
        wrong = Violations()
        tenant = _of(request.tenant, wrong)
        token_id = wrong.uuid("token_id", request.token_id)
        wrong.check()
        _demand(_me(context), tenant)
        async with self._db.connection() as connection:
            view = await access_token.revoke(connection, tenant, token_id)
        return pb.RevokeTokenResponse(token=token_message(view))

    async def ListAuditRecords(  # noqa: N802
        self, request: pb.ListAuditRecordsRequest, context: Context
    ) -> pb.ListAuditRecordsResponse:
        """Read the audit, newest first."""
        wrong = Violations()
        tenant = _of(request.tenant, wrong)
        size = size_of(wrong, request.page_size)
        cursor = cursor_of(wrong, "audit", request.page_token)
        if cursor and not (cursor.isascii() and cursor.isdigit() and int(cursor) <= _LAST):
            wrong.add("page_token", "must be the next_page_token of a page before")
        wrong.check()
        _demand(_me(context), tenant)
        async with self._db.connection() as connection:
            before = int(cursor) if cursor else _LAST
            records = await audit.page(connection, tenant, before=before, limit=size + 1)
        more = len(records) > size
        return pb.ListAuditRecordsResponse(
            records=[record_message(record) for record in records[:size]],
            next_page_token=token_of("audit", str(records[size - 1].sequence)) if more else "",
        )


def _me(context: Context) -> Identity:
    """Return who calls; without identity whom the metadata names, who may do everything."""
    identity = current_identity()
    if identity is not None:
        return identity
    who = said_caller(context)
    return Identity(EVERY, who.user, who.groups, who.roles | frozenset(ROLES))


def _of(named: str, wrong: Violations) -> str:
    return read_name(wrong, "tenant", named) if named else current_tenant()


def _demand(me: Identity, tenant: str) -> None:
    """Raise `PermissionDenied` unless the caller administers a tenant."""
    if not me.is_platform and tenant != me.tenant:
        raise PermissionDenied("Only the platform administers other tenants.")
    if ADMIN not in me.held:
        raise PermissionDenied("Only an admin administers access.")
