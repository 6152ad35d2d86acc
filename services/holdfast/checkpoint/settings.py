"""What a Checkpoint service is told by its environment."""

from dataclasses import dataclass

from holdfast.kit.auth.settings import LeaseAccessSettings
from holdfast.kit.settings import setting


@dataclass(frozen=True)
class CheckpointSettings(LeaseAccessSettings):
    """The settings of one Checkpoint process; durations in seconds."""

    database_url: str = setting(help="PostgreSQL URL of the ledger", secret=True)
    listen: str = setting("127.0.0.1:7402", help="host:port to serve on")
    database_pool: int = setting(
        6, help="connections to the ledger: two for commits, the rest for replays", minimum=3
    )
    acknowledgement_timeout: float = setting(
        30.0,
        help="how long a runner may leave its acknowledgements unread before its stream is cut",
        minimum=0.1,
    )
    drain_grace: float = setting(5.0, help="how long open calls may take at shutdown", minimum=0)
