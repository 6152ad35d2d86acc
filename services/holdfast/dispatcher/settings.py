"""What a Dispatcher is told by its environment."""

from dataclasses import dataclass
from pathlib import Path

from holdfast.kit.auth.settings import AccessSettings
from holdfast.kit.settings import SettingsError, setting


@dataclass(frozen=True)
class DispatcherSettings(AccessSettings):
    """The settings of one Dispatcher process; durations in seconds."""

    database_url: str = setting(help="PostgreSQL URL of the ledger", secret=True)
    listen: str = setting("127.0.0.1:7405", help="host:port to serve on")
    database_pool: int = setting(6, help="connections to the ledger", minimum=3)
    deliveries_at_once: int = setting(
        256, help="effects this process sends at once", minimum=1, maximum=10_000
    )
    poll_interval: float = setting(
        1.05, help="how often it looks for effects it was not told of", minimum=0.05, maximum=2.0
    )
    heartbeat_interval: float = setting(
        2.0, help="how often it says that it lives, at the latest: each look says so too", minimum=0.1
    )
    lease_ttl: float = setting(10.0, help="silence after which others send what it holds", minimum=0.2)
    allowed_hosts: tuple[str, ...] = setting(
        (), help="host, host:port or *.domain effects may go to; none named means any public host"
    )
    allowed_ports: tuple[int, ...] = setting(
        (80, 443), help="ports of public hosts, beside those named in the allowed hosts"
    )
    allow_private_addresses: bool = setting(
        False, help="whether effects may go to loopback and private addresses, there without TLS too"
    )
    allow_plain_http: bool = setting(False, help="whether effects may go to public hosts without TLS")
    secrets_dir: Path | None = setting(None, help="folder of signing secrets, a file each")
    drain_grace: float = setting(10.0, help="how long calls under way may take at shutdown", minimum=0)

    def __post_init__(self) -> None:
        """Refuse what cannot work together."""
        super().__post_init__()
        if self.heartbeat_interval * 2 > self.lease_ttl:
            raise SettingsError(
                "HOLDFAST_LEASE_TTL must be at least twice HOLDFAST_HEARTBEAT_INTERVAL, "
                "or dispatchers lose their leases between two heartbeats."
            )
        for port in self.allowed_ports:
            if not 0 < port < 65536:  # noqa: PLR2004 - what a port is
                raise SettingsError(f"HOLDFAST_ALLOWED_PORTS names {port}, which is no port.")
