"""What the console is told by its environment."""

import ipaddress
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from holdfast.client import Tls
from holdfast.kit.auth.key_source import is_safe
from holdfast.kit.auth.settings import Kind
from holdfast.kit.payload_settings import PayloadSettings
from holdfast.kit.settings import SettingsError, setting

_SHORTEST_SECRET = 32


@dataclass(frozen=True)
class ConsoleSettings(PayloadSettings):
    """The settings of one console process; durations in seconds."""

    listen: str = setting("127.0.0.1:7480", help="host:port to serve on")
    allow_insecure_bind: bool = setting(
        False,
        help="whether to listen where others can reach it, who may then sign in as anybody: only behind "
        "something that lets in nobody but those who may",
    )
    auth: tuple[Kind, ...] = setting(
        ("none",), help="how callers prove who they are, as the services are told: token, jwt, both, or none"
    )
    tls_ca_file: Path | None = setting(None, help="whom to trust when calling the services, then over TLS")
    tls_cert_file: Path | None = setting(None, help="the certificate to show them, in PEM")
    tls_key_file: Path | None = setting(None, help="its key")
    invoker_address: str = setting("127.0.0.1:7401", help="the Invoker, host:port or several")
    checkpoint_address: str = setting("127.0.0.1:7402", help="the Checkpoint service")
    approval_address: str = setting("127.0.0.1:7404", help="the Approval service")
    dispatcher_address: str = setting("127.0.0.1:7405", help="the Dispatcher, for the outbox")
    console_hosts: tuple[str, ...] = setting(
        ("localhost", "127.0.0.1", "[::1]"), help="host names under which browsers may reach the console"
    )
    console_https: bool = setting(False, help="whether browsers reach it over TLS, ended in front of it")
    console_secret: str = setting(
        "", help="seals the session cookies; without one a restart signs everybody out", secret=True
    )
    console_secret_file: Path | None = setting(None, help="a file that holds that secret")
    console_session_ttl: float = setting(43_200.0, help="how long a sign-in holds, used or not", minimum=60)
    console_oidc_issuer: str = setting(
        "", help="the OpenID provider at which people sign in, whose JWTs the services take; empty: none"
    )
    console_oidc_client_id: str = setting("", help="how the provider knows the console")
    console_oidc_secret: str = setting(
        "", help="what proves it to be that; empty for a public client", secret=True
    )
    console_oidc_secret_file: Path | None = setting(None, help="a file that holds that secret")
    console_oidc_scope: str = setting("openid", help="what is asked of the provider")
    console_oidc_credential: Literal["access_token", "id_token"] = setting(
        "access_token", help="which of the provider's tokens the services are shown"
    )
    console_upload_bytes: int = setting(
        128 * 1024 * 1024, help="how large a file of a batch's items may be", minimum=1
    )
    drain_grace: float = setting(5.0, help="how long open pages may take at shutdown", minimum=0)

    def __post_init__(self) -> None:
        """Refuse what cannot work together."""
        _, colon, port = self.listen.rpartition(":")
        if not colon or not port.isdigit():
            raise SettingsError("HOLDFAST_LISTEN must be host:port.")
        if not self.auth or ("none" in self.auth and len(self.auth) > 1):
            raise SettingsError("HOLDFAST_AUTH is none, or token, or jwt, or token,jwt.")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise SettingsError("HOLDFAST_TLS_CERT_FILE and HOLDFAST_TLS_KEY_FILE go together.")
        if not self.allow_insecure_bind and self.reachable:
            self._check_reachable(self.listen.rpartition(":")[0] or "every address")
        if self.console_secret and self.console_secret_file is not None:
            raise SettingsError("HOLDFAST_CONSOLE_SECRET and HOLDFAST_CONSOLE_SECRET_FILE: set one of them.")
        if self.console_secret and len(self.console_secret) < _SHORTEST_SECRET:
            raise SettingsError("HOLDFAST_CONSOLE_SECRET must have at least 32 characters.")

        self._check_provider()

    def _check_provider(self) -> None:
        if self.console_oidc_secret and self.console_oidc_secret_file is not None:
            raise SettingsError(
                "HOLDFAST_CONSOLE_OIDC_SECRET and HOLDFAST_CONSOLE_OIDC_SECRET_FILE: set one of them."
            )
        if not self.console_oidc_issuer:
            return
        if "jwt" not in self.auth:
            raise SettingsError("HOLDFAST_CONSOLE_OIDC_ISSUER takes HOLDFAST_AUTH=jwt or token,jwt.")
        if not self.console_oidc_client_id:
            raise SettingsError("HOLDFAST_CONSOLE_OIDC_ISSUER takes HOLDFAST_CONSOLE_OIDC_CLIENT_ID.")
        if not is_safe(self.console_oidc_issuer):
            raise SettingsError("HOLDFAST_CONSOLE_OIDC_ISSUER must be an https URL.")

    def _check_reachable(self, host: str) -> None:
        if not self.identity:
            raise SettingsError(
                f"The console would listen on {host}, where anybody could sign in as anybody: listen on "
                "127.0.0.1, set HOLDFAST_AUTH as the services have it, or set "
                "HOLDFAST_ALLOW_INSECURE_BIND=true behind something that keeps others out."
            )
        if not self.console_https:
            raise SettingsError(
                f"The console would listen on {host} and take credentials in the clear: end TLS in front of "
                "it and set HOLDFAST_CONSOLE_HTTPS=true, or set HOLDFAST_ALLOW_INSECURE_BIND=true."
            )

    @property
    def identity(self) -> bool:
        """Whether people prove who they are."""
        return "none" not in self.auth

    @property
    def reachable(self) -> bool:
        """Whether other machines can reach it."""
        return not _is_loopback(self.listen.rpartition(":")[0])

    @property
    def tls(self) -> Tls | None:
        """How the services are called; None: in plaintext."""
        if self.tls_ca_file is None:
            return None
        return Tls(self.tls_ca_file, self.tls_cert_file, self.tls_key_file)

    def secret(self) -> str:
        """Return what seals the cookies: as told, or made for this process."""
        if self.console_secret_file is None:
            return self.console_secret or secrets.token_hex(32)
        found = _read(self.console_secret_file, "HOLDFAST_CONSOLE_SECRET_FILE")
        if len(found) < _SHORTEST_SECRET:
            raise SettingsError(
                "HOLDFAST_CONSOLE_SECRET_FILE holds less than 32 characters; it needs that many."
            )
        return found

    def oidc_secret(self) -> str:
        """Return what proves the console to the provider; empty for a public client."""
        if self.console_oidc_secret_file is None:
            return self.console_oidc_secret
        return _read(self.console_oidc_secret_file, "HOLDFAST_CONSOLE_OIDC_SECRET_FILE")


def _read(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{name} cannot be read: {error.strerror}.") from error


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
