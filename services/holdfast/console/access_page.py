"""Who may come in: the tenant's tokens, made and ended here, and the audit of what was done."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from holdfast.client import AuditRecord, HoldfastError, MadeToken, Token
from holdfast.console.clients import client_of
from holdfast.console.guard import form_of
from holdfast.console.page import done, failed, page, sentence
from holdfast.console.session import session_of

_MOST_TOKENS: Final = 500
_FEWEST: Final = 100
_MOST_RECORDS: Final = 3200
_AMOUNTS: Final = frozenset({"200", "400", "800", "1600", "3200"})
_DAY: Final = 86_400
ROLES: Final = (
    ("read", "sees what the tenant has"),
    ("invoke", "and starts, talks to and stops runs"),
    ("approve", "and decides gates that let it"),
    ("operate", "and retries, pauses, discards, schedules"),
    ("admin", "all of these, and tokens and the audit"),
)
LIVES: Final = (("1", "a day"), ("7", "7 days"), ("30", "30 days"), ("90", "90 days"), ("365", "a year"))
_DEFAULT: Final[Mapping[str, str]] = {
    **{f"role_{name}": "on" if name == "read" else "" for name, _ in ROLES},
    "name": "",
    "user": "",
    "groups": "",
    "days": "90",
}


async def show(request: Request) -> Response:
    """Show the tokens."""
    return await _tokens(request, _DEFAULT)


async def _tokens(
    request: Request, given: Mapping[str, str], wrong: str = "", made: MadeToken | None = None
) -> Response:
    tokens: list[Token] = []
    unlisted = ""
    try:
        async for token in client_of(request).access.tokens():
            tokens.append(token)
            if len(tokens) >= _MOST_TOKENS:
                break
    except HoldfastError as error:
        if made is None:
            raise
        unlisted = sentence(error)  # the secret is in this answer and nowhere else
    tokens.sort(key=_is_over)
    return page(
        request,
        "tokens.html",
        status=400 if wrong else 200,
        tokens=[(token, _is_over(token)) for token in tokens],
        most=_MOST_TOKENS,
        roles=ROLES,
        lives=LIVES,
        given=given,
        wrong=wrong,
        made=made,
        unlisted=unlisted,
    )


def _is_over(token: Token) -> bool:
    return token.revoke_time is not None or (
        token.expire_time is not None and token.expire_time <= datetime.now(UTC)
    )


async def make(request: Request) -> Response:
    """Make a token, and show its secret in this answer and nowhere else."""
    form = form_of(request)
    given = {name: str(form.get(name, "")).strip() for name in ("name", "user", "groups", "days")}
    given |= {f"role_{name}": form.get(f"role_{name}", "") for name, _ in ROLES}
    roles = [name for name, _ in ROLES if given[f"role_{name}"]]
    wrong = ""
    if not given["name"]:
        wrong = "Give the token a name by which people know it."
    elif not roles:
        wrong = "Choose at least one role."
    elif given["days"] and given["days"] not in dict(LIVES):
        wrong = "Choose how long the token is good."
    if wrong:
        return await _tokens(request, given, wrong)
    groups = [name.strip() for name in given["groups"].split(",") if name.strip()]
    ttl = int(given["days"]) * _DAY if given["days"] else None
    try:
        made = await client_of(request).access.create_token(
            given["name"], roles=roles, user=given["user"], groups=groups, ttl=ttl
        )
    except HoldfastError as error:
        return await _tokens(request, given, sentence(error))
    return await _tokens(request, _DEFAULT, made=made)


async def revoke(request: Request) -> Response:
    """End a token."""
    form = form_of(request)
    try:
        token = await client_of(request).access.revoke_token(request.path_params["token_id"])
    except HoldfastError as error:
        return failed(request, error, form, "/tokens")
    return done(request, f"“{token.name}” is revoked; in a few seconds nobody takes it.", form, "/tokens")


async def audit(request: Request) -> Response:
    """Show the newest records, two of a call as one line."""
    asked = request.query_params.get("most", "")
    most = int(asked) if asked in _AMOUNTS else _FEWEST
    records: list[AuditRecord] = []
    async for record in client_of(request).access.audit(page_size=_FEWEST):
        records.append(record)
        if len(records) >= most:
            break
    more = most * 2 if len(records) >= most and most < _MOST_RECORDS else 0
    return page(request, "audit.html", lines=_lines(records), tenant=session_of(request).tenant, more=more)


def _lines(records: list[AuditRecord]) -> list[tuple[AuditRecord, AuditRecord | None]]:
    """Return each call once, the newest first: its first record, and the one that says how it ended."""
    ended = {record.call_id: record for record in records if record.outcome}
    began = {record.call_id: record for record in records if not record.outcome}
    order = dict.fromkeys(record.call_id for record in records)
    return [(began.get(call) or ended[call], ended.get(call)) for call in order]
