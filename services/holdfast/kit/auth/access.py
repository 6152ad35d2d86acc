"""What a server knows of its callers, put together from its settings."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from holdfast.kit.auth.audit import Entry
from holdfast.kit.auth.capability import Capabilities
from holdfast.kit.auth.credential import Authenticator, Credentials
from holdfast.kit.auth.json_web_token import Claims, JsonWebTokens
from holdfast.kit.auth.key_set import KeySet
from holdfast.kit.auth.key_source import from_file, from_issuer
from holdfast.kit.auth.settings import AccessSettings, LeaseAccessSettings
from holdfast.kit.auth.tls import PLAIN, Tls
from holdfast.kit.auth.token import Find, Tokens
from holdfast.kit.bounds import Bounds

BOUNDS: Final = Bounds()
_FILE_LIFE: Final = 5.0  # seconds after which a file of keys is read anew
_ISSUER_LIFE: Final = 300.0

Write = Callable[[Entry], Awaitable[None]]
"""Adds an entry to the audit."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call a server, and how much; without `credentials` whoever reaches it, as whom they say."""

    credentials: Authenticator | None = None
    audit: Write | None = None
    allow_insecure_bind: bool = False
    capabilities: Capabilities | None = None
    tls: Tls = PLAIN
    health_listen: str = ""
    bounds: Bounds = BOUNDS


def access_of(settings: AccessSettings, *, find: Find | None = None, audit: Write | None = None) -> Access:
    """Put the access together; `find` looks tokens up, which takes a ledger."""
    allowed = settings.allow_insecure_bind
    known = (settings.tls, settings.health_listen, settings.bounds)
    if not settings.identity:
        return Access(None, audit, allowed, None, *known)
    token: Authenticator | None = None
    if "token" in settings.auth and find is not None:
        token = Tokens(find, life=settings.token_cache)
    credentials = Credentials(token=token, jwt=_jwt(settings) if "jwt" in settings.auth else None)
    capabilities = settings.capabilities() if isinstance(settings, LeaseAccessSettings) else None
    return Access(credentials, audit, allowed, capabilities, *known)


def _jwt(settings: AccessSettings) -> Authenticator:
    file = settings.jwt_jwks_file
    if file is None:
        keys = KeySet(from_issuer(settings.jwt_issuer), life=_ISSUER_LIFE)
    else:
        keys = KeySet(from_file(file), life=_FILE_LIFE, pause=1.0)
    return JsonWebTokens(
        keys,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        algorithms=settings.jwt_algorithms,
        leeway=settings.jwt_leeway,
        claims=Claims(
            tenant=settings.jwt_tenant_claim,
            user=settings.jwt_user_claim,
            groups=settings.jwt_groups_claim,
            roles=settings.jwt_roles_claim,
            fixed_tenant=settings.jwt_tenant,
        ),
    )
