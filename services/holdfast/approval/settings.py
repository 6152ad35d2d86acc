"""What the Approval service is told by its environment."""

from dataclasses import dataclass

from holdfast.kit.settings import setting


@dataclass(frozen=True)
class ApprovalSettings:
    """The settings of one Approval process; durations in seconds."""

    listen: str = setting("127.0.0.1:7404", help="host:port to serve on")
    drain_grace: float = setting(5.0, help="how long open calls may take at shutdown", minimum=0)
