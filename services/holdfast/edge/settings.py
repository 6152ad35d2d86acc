"""What the edge is told by its environment."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from holdfast.client import Tls
from holdfast.kit.payload_settings import PayloadSettings
from holdfast.kit.settings import SettingsError, setting


@dataclass(frozen=True)
class EdgeSettings(PayloadSettings):
    """The settings of one edge process; durations in seconds."""

    listen: str = setting("127.0.0.1:7490", help="host:port for webhooks; TLS is ended in front of it")
    sources_file: Path | None = setting(
        None, help="the declarations of sources, in TOML; without, it has none"
    )
    secrets_dir: Path | None = setting(None, help="folder of the sources' secrets, a file each")
    invoker_address: str = setting("127.0.0.1:7401", help="the Invoker, host:port or several")
    tls_ca_file: Path | None = setting(
        None, help="whom to trust when calling the Invoker, which then happens over TLS"
    )
    tls_cert_file: Path | None = setting(None, help="the certificate to show to the Invoker, in PEM")
    tls_key_file: Path | None = setting(None, help="its key")
    accept_timeout: float = setting(10.0, help="how long the Invoker may take to accept events", minimum=0.1)
    requests_at_once: int = setting(
        256, help="webhooks handled at once; more are told to come again", minimum=1, maximum=10_000
    )
    header_timeout: float = setting(
        10.0, help="how long a sender may take for a request's headers", minimum=0.1, maximum=300
    )
    drain_grace: float = setting(10.0, help="how long requests under way may take at shutdown", minimum=0)

    def __post_init__(self) -> None:
        """Refuse what cannot work together."""
        _, colon, port = self.listen.rpartition(":")
        if not colon or not port.isdigit():
            raise SettingsError("HOLDFAST_LISTEN must be host:port.")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise SettingsError("HOLDFAST_TLS_CERT_FILE and HOLDFAST_TLS_KEY_FILE go together.")
        if self.tls_cert_file is not None and self.tls_ca_file is None:
            raise SettingsError("HOLDFAST_TLS_CERT_FILE takes HOLDFAST_TLS_CA_FILE.")

    @property
    def tls(self) -> Tls | None:
        """How the Invoker is called; None for without TLS."""
        return (
            None if self.tls_ca_file is None else Tls(self.tls_ca_file, self.tls_cert_file, self.tls_key_file)
        )

    @property
    def is_private(self) -> bool:
        """Whether nobody but this machine can send webhooks."""
        host = self.listen.rpartition(":")[0].strip("[]")
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False
