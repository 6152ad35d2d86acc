"""JWTs: signed by a key that is the issuer's, with an algorithm that was chosen here, for us, and not over.

The token's header chooses among the issuer's keys and nothing else: it brings no key and names no place to
get one. RFC 8725 is followed, claims become an identity as the settings say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt

from holdfast.kit.auth.credential import refused
from holdfast.kit.auth.identity import EVERY, Identity, is_name
from holdfast.kit.auth.key_set import KeySet
from holdfast.kit.auth.role import RUNNER

ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""What may be chosen: signatures only the issuer can make."""

MOST_NAMES: Final = 1000
_FOREIGN: Final = frozenset({"jku", "jwk", "x5u", "x5c", "crit"})


@dataclass(frozen=True, slots=True)
class Claims:
    """Which claims say what; a dot goes into a claim. With `fixed_tenant` every token is of that tenant."""

    tenant: str = "tenant"
    user: str = "sub"
    groups: str = "groups"
    roles: str = "roles"
    fixed_tenant: str = ""


class JsonWebTokens:
    """Knows who has a JWT of one issuer; `leeway` in seconds, for clocks that differ."""

    def __init__(
        self,
        keys: KeySet,
        *,
        issuer: str,
        audience: str,
        algorithms: Sequence[str] = ("RS256",),
        leeway: float = 30.0,
        claims: Claims = Claims(),
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._algorithms = tuple(algorithms)
        self._leeway = leeway
        self._claims = claims

    async def identify(self, secret: str) -> Identity:
        """Return who has the token. Raises `Unauthenticated`, `IdentityUnavailable`."""
        kid, algorithm = self._header(secret)
        key = await self._keys.find(kid, algorithm)
        try:
            claims = jwt.decode(
                secret,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise refused(type(error).__name__) from None
        return self._identity(claims)

    def _header(self, secret: str) -> tuple[str | None, str]:
        try:
            header = jwt.get_unverified_header(secret)
        except jwt.PyJWTError as error:
            raise refused(type(error).__name__) from None
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self._algorithms:
            raise refused("it is signed with an algorithm that is not taken here")
        if _FOREIGN & header.keys():
            raise refused("its header brings a key of its own")
        if not (kid is None or is_name(kid)):
            raise refused("its header names a key that cannot be")
        return kid, str(algorithm)

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        tenant = self._claims.fixed_tenant or _at(claims, self._claims.tenant)
        user = _at(claims, self._claims.user)
        if not is_name(tenant) or tenant == EVERY:
            raise refused("it names no tenant")
        if not is_name(user):
            raise refused("it names no user")
        groups, roles = (_names(_at(claims, name)) for name in (self._claims.groups, self._claims.roles))
        return Identity(
            tenant=tenant,
            user=user,
            groups=groups,
            roles=roles - {RUNNER},  # no person's
            credential=f"jwt:{self._issuer}"[:255],
            expires=float(claims["exp"]) + self._leeway,
        )


def _at(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim by its name, or by the path that its name is."""
    if name in claims:
        return claims[name]
    head, dot, rest = name.partition(".")
    inner = claims.get(head)
    return _at(inner, rest) if dot and isinstance(inner, Mapping) else None


def _names(claim: Any) -> frozenset[str]:
    """Return a list of names; one text holds several with spaces or commas between."""
    names = claim.replace(",", " ").split() if isinstance(claim, str) else claim
    if not isinstance(names, list):
        return frozenset()
    if len(names) > MOST_NAMES or not all(is_name(name) for name in names):
        raise refused("it names groups or roles that cannot be")
    return frozenset(names)
