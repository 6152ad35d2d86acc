"""What the Approval service is told by its environment."""

from dataclasses import dataclass

from holdfast.kit.settings import ALLOW_INSECURE_BIND, setting


@dataclass(frozen=True)
class ApprovalSettings:
    """The settings of one Approval process; durations in seconds."""

    database_url: str = setting(help="PostgreSQL URL of the ledger", secret=True)
    listen: str = setting("127.0.0.1:7404", help="host:port to serve on")
    allow_insecure_bind: bool = setting(False, help=ALLOW_INSECURE_BIND)
    database_pool: int = setting(4, help="connections to the ledger", minimum=2)
    drain_grace: float = setting(5.0, help="how long open calls may take at shutdown", minimum=0)
