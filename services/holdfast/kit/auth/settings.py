"""What every server is told of who may call it, and how the way to it is kept private."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from holdfast.kit.auth.capability import Capabilities, keys_of
from holdfast.kit.auth.json_web_token import ALGORITHMS
from holdfast.kit.auth.key_source import is_safe
from holdfast.kit.auth.rule import RULES
from holdfast.kit.auth.tls import Tls
from holdfast.kit.bounds import MOST_CALLS, MOST_CALLS_PER_TENANT, Bounds, by_method
from holdfast.kit.settings import ALLOW_INSECURE_BIND, SettingsError, setting

Kind = Literal["none", "token", "jwt"]


@dataclass(frozen=True, kw_only=True)
class AccessSettings:
    """The settings that all servers share; durations in seconds."""

    auth: tuple[Kind, ...] = setting(
        ("none",), help="how callers prove who they are: token, jwt, both with a comma between, or none"
    )
    allow_insecure_bind: bool = setting(False, help=ALLOW_INSECURE_BIND)
    token_cache: float = setting(
        10.0, help="how long a token that was found is taken without asking again", minimum=0, maximum=300
    )
    jwt_issuer: str = setting("", help="who issues JWTs, as their claim iss has it")
    jwt_audience: str = setting("", help="whom JWTs must be for, as their claim aud has it")
    jwt_jwks_file: Path | None = setting(
        None, help="a file with the issuer's keys; without it they are found by the issuer's URL"
    )
    jwt_algorithms: tuple[str, ...] = setting(("RS256",), help="the algorithms that JWTs may be signed with")
    jwt_leeway: float = setting(30.0, help="how far clocks may differ", minimum=0, maximum=300)
    jwt_tenant: str = setting("", help="the tenant of every JWT, where one issuer serves one tenant")
    jwt_tenant_claim: str = setting("tenant", help="the claim that names the tenant; a dot goes into a claim")
    jwt_user_claim: str = setting("sub", help="the claim that names the user")
    jwt_groups_claim: str = setting("groups", help="the claim that lists the user's groups")
    jwt_roles_claim: str = setting("roles", help="the claim that lists the user's roles")

    tls_cert_file: Path | None = setting(
        None, help="the certificate to show, in PEM; read anew as it changes"
    )
    tls_key_file: Path | None = setting(None, help="its key")
    tls_ca_file: Path | None = setting(
        None, help="whom to trust when calling other services, which then happens over TLS"
    )
    tls_client_ca_file: Path | None = setting(
        None, help="whose certificates clients must show; without, they need none"
    )
    health_listen: str = setting(
        "", help="host:port for health in plaintext, beside TLS: probes of Kubernetes speak nothing else"
    )
    metrics_listen: str = setting(
        "", help="host:port, the host in numbers, of /metrics for Prometheus; none by default"
    )

    max_calls: int = setting(
        MOST_CALLS, help="calls in flight, open streams among them, in one process; 0: no bound", minimum=0
    )
    max_calls_per_tenant: int = setting(
        MOST_CALLS_PER_TENANT, help="how many of them may be one tenant's; 0: no bound", minimum=0
    )
    max_calls_by_method: tuple[str, ...] = setting(
        (), help="bounds per tenant and method, as InvokerService.Converse=500,BatchService.WatchBatch=50"
    )
    max_streams_per_connection: int = setting(
        MOST_CALLS_PER_TENANT,
        help="calls that one connection may have open; those beyond wait at the client; 0: no bound",
        minimum=0,
    )
    reflection: bool = setting(True, help="whether to tell the contract to who asks, as grpcurl does")

    @property
    def bounds(self) -> Bounds:
        """How much is let in at once."""
        return Bounds(
            self.max_calls,
            self.max_calls_per_tenant,
            by_method(self.max_calls_by_method),
            self.max_streams_per_connection,
            self.reflection,
        )

    @property
    def tls(self) -> Tls:
        """What servers show and ask for, and whom calls trust."""
        return Tls(self.tls_cert_file, self.tls_key_file, self.tls_ca_file, self.tls_client_ca_file)

    @property
    def identity(self) -> bool:
        """Whether callers have to prove who they are."""
        return "none" not in self.auth

    def __post_init__(self) -> None:
        """Refuse what cannot work together."""
        if not self.auth or ("none" in self.auth and len(self.auth) > 1):
            raise SettingsError("HOLDFAST_AUTH is none, or token, or jwt, or token,jwt.")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise SettingsError("HOLDFAST_TLS_CERT_FILE and HOLDFAST_TLS_KEY_FILE go together.")
        if self.tls_cert_file is None and (self.tls_client_ca_file is not None or self.health_listen):
            raise SettingsError(
                "HOLDFAST_TLS_CLIENT_CA_FILE and HOLDFAST_HEALTH_LISTEN take HOLDFAST_TLS_CERT_FILE."
            )
        unknown = sorted(set(self.bounds.by_method) - set(RULES))
        if unknown:
            raise SettingsError(f"HOLDFAST_MAX_CALLS_BY_METHOD bounds {unknown[0]}, which no service has.")
        foreign = sorted(set(self.jwt_algorithms) - set(ALGORITHMS))
        if foreign or not self.jwt_algorithms:
            raise SettingsError(
                f"HOLDFAST_JWT_ALGORITHMS holds {', '.join(foreign) or 'nothing'}, and may hold "
                f"{', '.join(ALGORITHMS)}."
            )
        if "jwt" not in self.auth:
            return
        if not self.jwt_issuer or not self.jwt_audience:
            raise SettingsError(
                "HOLDFAST_JWT_ISSUER and HOLDFAST_JWT_AUDIENCE must be set with HOLDFAST_AUTH=jwt, "
                "or tokens made for others would be taken."
            )
        if self.jwt_jwks_file is None and not is_safe(self.jwt_issuer):
            raise SettingsError(
                "HOLDFAST_JWT_ISSUER must be an https URL, or HOLDFAST_JWT_JWKS_FILE must hold its keys."
            )


@dataclass(frozen=True, kw_only=True)
class LeaseAccessSettings(AccessSettings):
    """The same of a server that runners call about the runs they hold."""

    capability_key: str = setting(
        "",
        help="signs what runners show of their leases: at least 32 characters, the same for all services",
        secret=True,
    )
    capability_key_file: Path | None = setting(
        None, help="a file with that key, or several, one a line: the first signs, each verifies"
    )
    capability_life: float = setting(
        3600.0, help="how long a lease's capability holds without being renewed", minimum=60
    )

    def __post_init__(self) -> None:
        """Refuse what cannot work together."""
        super().__post_init__()
        if self.identity and not (self.capability_key or self.capability_key_file):
            raise SettingsError(
                "HOLDFAST_CAPABILITY_KEY_FILE must be set where there is identity, "
                "or a runner could touch runs that it does not hold."
            )

    def capabilities(self) -> Capabilities | None:
        """Return what makes and checks capabilities; None without identity. Raises `SettingsError`."""
        if not self.identity:
            return None
        keys = keys_of(self.capability_key, self.capability_key_file)
        if not keys:
            raise SettingsError("HOLDFAST_CAPABILITY_KEY_FILE holds no key.")
        return Capabilities(keys, life=self.capability_life)
