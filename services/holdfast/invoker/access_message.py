"""Tokens and audit between the contract's messages and the ledger's values."""

from collections.abc import Iterable
from typing import Final

from holdfast.invoker.tenant_message import read_name
from holdfast.kit.auth.identity import is_name
from holdfast.kit.auth.role import RUNNER
from holdfast.kit.rpc.run import timestamp
from holdfast.kit.rpc.violation import Violations
from holdfast.ledger.access_token import TokenView, Wanted
from holdfast.ledger.audit import Record
from holdfast.v1 import access_service_pb2 as pb

MOST_NAMES: Final = 100
LONGEST_TTL: Final = 3650 * 24 * 3600.0


def read_wanted(wrong: Violations, asked: pb.CreateTokenRequest, tenant: str) -> Wanted:
    """Check what a token shall be; `tenant` is whose. What only the platform may have is not judged here."""
    read_name(wrong, "tenant", tenant)
    wrong.text("name", asked.name)
    user = asked.user or asked.name
    if asked.name and not is_name(user):
        wrong.add("user", "must be 1 to 255 bytes of printable text")
    _check_names(wrong, "groups", asked.groups)
    _check_names(wrong, "roles", asked.roles)
    if not asked.roles:
        wrong.add("roles", "must have at least one entry")
    if RUNNER in asked.roles and len(asked.roles) > 1:
        wrong.add("roles", "must not have others beside runner: a runner is nobody else")
    given = asked.HasField("ttl")
    ttl = wrong.seconds("ttl", asked.ttl, given=given, default=0.0, most=LONGEST_TTL, least=1.0)
    return Wanted(
        tenant,
        asked.name,
        user,
        sorted(set(asked.groups)),
        sorted(set(asked.roles)),
        ttl if given else None,
    )


def token_message(view: TokenView) -> pb.AccessToken:
    """Describe a token."""
    message = pb.AccessToken(
        token_id=str(view.token_id),
        tenant=view.tenant,
        name=view.name,
        user=view.user,
        groups=view.groups,
        roles=view.roles,
        create_time=timestamp(view.create_time),
        create_user=view.create_user,
    )
    if view.expire_time is not None:
        message.expire_time.CopyFrom(timestamp(view.expire_time))
    if view.revoke_time is not None:
        message.revoke_time.CopyFrom(timestamp(view.revoke_time))
    return message


def record_message(record: Record) -> pb.AuditRecord:
    """Describe a line of the audit."""
    entry = record.entry
    return pb.AuditRecord(
        sequence=record.sequence,
        time=timestamp(record.time),
        tenant=entry.tenant,
        user=entry.user,
        credential=entry.credential,
        action=entry.action,
        subject=entry.subject,
        outcome=entry.outcome,
        call_id=str(entry.call_id),
    )


def _check_names(wrong: Violations, field: str, names: Iterable[str]) -> None:
    listed = list(names)
    if len(listed) > MOST_NAMES:
        wrong.add(field, f"must be at most {MOST_NAMES}")
    for at, name in enumerate(listed):
        if not is_name(name) or "," in name:
            wrong.add(f"{field}[{at}]", "must be 1 to 255 bytes of printable text, without commas")
