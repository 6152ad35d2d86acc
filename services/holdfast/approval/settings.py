"""What the Approval service is told by its environment."""

from dataclasses import dataclass

from holdfast.kit.auth.settings import LeaseAccessSettings
from holdfast.kit.settings import setting


@dataclass(frozen=True)
class ApprovalSettings(LeaseAccessSettings):
    """The settings of one Approval process; durations in seconds."""

    database_url: str = setting(help="PostgreSQL URL of the ledger", secret=True)
    listen: str = setting("127.0.0.1:7404", help="host:port to serve on")
    database_pool: int = setting(4, help="connections to the ledger", minimum=2)
    drain_grace: float = setting(5.0, help="how long open calls may take at shutdown", minimum=0)
