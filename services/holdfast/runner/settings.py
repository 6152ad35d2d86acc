"""What a runner is told by its environment."""

from dataclasses import dataclass
from pathlib import Path

from holdfast.kit.auth.settings import AccessSettings
from holdfast.kit.payload_settings import PayloadSettings
from holdfast.kit.settings import setting


@dataclass(frozen=True)
class RunnerSettings(PayloadSettings, AccessSettings):
    """The settings of one Runner process; durations in seconds."""

    agents: tuple[str, ...] = setting(help="the apps whose agents it runs, each as module:name")
    listen: str = setting("127.0.0.1:7403", help="host:port to serve on")
    advertise: str = setting(
        "", help="host:port under which Invokers reach this runner; by default where it listens"
    )
    invoker_address: tuple[str, ...] = setting(
        ("127.0.0.1:7401",), help="host:port of the Invokers, tried in turn"
    )
    checkpoint_address: tuple[str, ...] = setting(
        ("127.0.0.1:7402",), help="host:port of the Checkpoint services, tried in turn"
    )
    approval_address: tuple[str, ...] = setting(
        ("127.0.0.1:7404",), help="host:port of the Approval services, tried in turn"
    )
    token: str = setting("", help="the token that says to the others who it is", secret=True)
    token_file: Path | None = setting(None, help="a file with that token, read anew when it changes")
    slots: int = setting(256, help="runs held at once", minimum=1, maximum=10_000)
    drain_grace: float = setting(
        10.0, help="how long running work may take to end at shutdown, before it is handed back", minimum=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token and self.token_file is not None:
            raise ValueError("HOLDFAST_TOKEN and HOLDFAST_TOKEN_FILE must not both be set.")
        if self.identity and not self.token and self.token_file is None:
            raise ValueError(
                "HOLDFAST_TOKEN_FILE must be set where there is identity: it holds a token with the role "
                "runner, of the tenant *."
            )
        if not self.agents:
            raise ValueError("HOLDFAST_AGENTS must name at least one app, as module:name.")
        if not self.invoker_address or not self.checkpoint_address or not self.approval_address:
            raise ValueError(
                "HOLDFAST_INVOKER_ADDRESS, HOLDFAST_CHECKPOINT_ADDRESS and HOLDFAST_APPROVAL_ADDRESS "
                "must not be empty."
            )
