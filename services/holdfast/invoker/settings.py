"""What an Invoker is told by its environment."""

from dataclasses import dataclass
from pathlib import Path

from holdfast.kit.auth.settings import LeaseAccessSettings
from holdfast.kit.settings import SettingsError, setting


@dataclass(frozen=True)
class InvokerSettings(LeaseAccessSettings):
    """The settings of one Invoker process; durations in seconds."""

    database_url: str = setting(help="PostgreSQL URL of the ledger", secret=True)
    listen: str = setting("127.0.0.1:7401", help="host:port to serve on")
    database_pool: int = setting(8, help="connections to the ledger", minimum=4)
    heartbeat_interval: float = setting(2.0, help="how often runners say they live", minimum=0.1)
    lease_ttl: float = setting(10.0, help="silence after which a runner's leases are freed", minimum=0.2)
    broken_stream_grace: float = setting(
        2.0, help="how long a runner whose stream broke may take to come back", minimum=0
    )
    max_attempts: int = setting(
        5, help="leases after which a failing run is set aside", minimum=1, maximum=1000
    )
    queue_unknown_intents: bool = setting(False, help="queue runs for intents no runner has served yet")
    history_days: int = setting(
        30,
        help="days for which transcripts and recorded steps are kept after acceptance; 0: for ever",
        minimum=0,
    )
    token_price: float = setting(
        0.0,
        help="what a million tokens cost in your currency, for the cost of batches; 0: no cost",
        minimum=0,
    )
    batch_sources_file: Path | None = setting(
        None, help="the declarations of the sources of batches' items, in TOML; without, there are none"
    )
    secrets_dir: Path | None = setting(
        None, help="folder of the secrets that they name, a file each: the URLs of databases"
    )
    drain_grace: float = setting(5.0, help="how long open calls may take at shutdown", minimum=0)

    def __post_init__(self) -> None:
        """Refuse what cannot work together."""
        super().__post_init__()
        if self.heartbeat_interval * 2 > self.lease_ttl:
            raise SettingsError(
                "HOLDFAST_LEASE_TTL must be at least twice HOLDFAST_HEARTBEAT_INTERVAL, "
                "or runners lose their leases between two heartbeats."
            )
        if self.broken_stream_grace > self.lease_ttl:
            raise SettingsError("HOLDFAST_BROKEN_STREAM_GRACE must not be longer than HOLDFAST_LEASE_TTL.")
