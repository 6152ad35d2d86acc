"""Who calls, the tokens by which programs do, and the audit; the Invoker serves all of it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from holdfast.client.link import Link
from holdfast.client.wire_value import duration_of, time_of
from holdfast.v1 import access_service_pb2 as pb
from holdfast.v1 import access_service_pb2_grpc


@dataclass(frozen=True, slots=True)
class Me:
    """Whom the server takes the caller for; `platform` may name any tenant."""

    tenant: str
    user: str
    groups: Sequence[str]
    roles: Sequence[str]
    platform: bool
    credential: str


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its secret; `tenant` is `*` for the platform's."""

    token_id: str
    tenant: str
    name: str
    user: str
    groups: Sequence[str]
    roles: Sequence[str]
    create_time: datetime | None
    create_user: str
    expire_time: datetime | None
    revoke_time: datetime | None


@dataclass(frozen=True, slots=True)
class MadeToken:
    """A new token with its secret, which is told this once."""

    token: Token
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """Something somebody did; `outcome` is empty in the record written before it was done."""

    sequence: int
    time: datetime | None
    tenant: str
    user: str
    credential: str
    action: str
    subject: Mapping[str, str]
    outcome: str
    call_id: str


class AccessControl:
    """Who may come in: `client.access`. All but `me` are an admin's calls."""

    def __init__(self, stub: access_service_pb2_grpc.AccessServiceStub, link: Link) -> None:
        self._stub = stub
        self._link = link

    async def me(self) -> Me:
        """Return whom the server takes us for. Raises `Unauthenticated`."""
        told = await self._link.call(self._stub.WhoAmI, pb.WhoAmIRequest())
        return Me(told.tenant, told.user, list(told.groups), list(told.roles), told.platform, told.credential)

    async def create_token(
        self,
        name: str,
        *,
        roles: Sequence[str],
        tenant: str = "",
        user: str = "",
        groups: Sequence[str] = (),
        ttl: float | None = None,
    ) -> MadeToken:
        """Make a token, for our own tenant unless told another; each call makes one more.

        `user` is by default the name; `ttl` is how many seconds it lives, for ever without. Raises
        `PermissionDenied`.
        """
        request = pb.CreateTokenRequest(name=name, tenant=tenant, user=user, groups=groups, roles=roles)
        if ttl is not None:
            request.ttl.CopyFrom(duration_of(ttl))
        told = await self._link.call(self._stub.CreateToken, request, repeatable=False)
        return MadeToken(_token(told.token), told.secret)

    async def tokens(self, tenant: str = "", *, page_size: int = 100) -> AsyncIterator[Token]:
        """Yield the tokens of a tenant, ended ones too, oldest first, page by page."""
        request = pb.ListTokensRequest(tenant=tenant, page_size=page_size)
        while True:
            page = await self._link.call(self._stub.ListTokens, request)
            for token in page.tokens:
                yield _token(token)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def revoke_token(self, token_id: str, *, tenant: str = "") -> Token:
        """End a token; servers may take it for a few seconds more. Raises `TokenNotFound`."""
        request = pb.RevokeTokenRequest(token_id=token_id, tenant=tenant)
        return _token((await self._link.call(self._stub.RevokeToken, request)).token)

    async def audit(self, tenant: str = "", *, page_size: int = 100) -> AsyncIterator[AuditRecord]:
        """Yield what was done by people and programs, newest first, page by page."""
        request = pb.ListAuditRecordsRequest(tenant=tenant, page_size=page_size)
        while True:
            page = await self._link.call(self._stub.ListAuditRecords, request)
            for record in page.records:
                yield _record(record)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


def _token(message: pb.AccessToken) -> Token:
    return Token(
        token_id=message.token_id,
        tenant=message.tenant,
        name=message.name,
        user=message.user,
        groups=list(message.groups),
        roles=list(message.roles),
        create_time=_moment(message, "create_time"),
        create_user=message.create_user,
        expire_time=_moment(message, "expire_time"),
        revoke_time=_moment(message, "revoke_time"),
    )


def _record(message: pb.AuditRecord) -> AuditRecord:
    return AuditRecord(
        sequence=message.sequence,
        time=_moment(message, "time"),
        tenant=message.tenant,
        user=message.user,
        credential=message.credential,
        action=message.action,
        subject=dict(message.subject),
        outcome=message.outcome,
        call_id=message.call_id,
    )


def _moment(message: Any, name: str) -> datetime | None:
    return time_of(getattr(message, name)) if message.HasField(name) else None
