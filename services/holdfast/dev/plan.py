"""What the suite consists of: which processes, how many, and what each is told by its environment."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

_NONE: Mapping[str, str] = MappingProxyType({})
_CONSOLE_SECRET = "HOLDFAST_CONSOLE_SECRET"  # noqa: S105 - the name of a variable
_WAY_TO_THE_DATABASE = ("HOLDFAST_DATABASE_URL", "PGPASS", "PGSERVICEFILE")
_SIGNING = ("HOLDFAST_SECRET", "HOLDFAST_CAPABILITY")
_CONSOLES_OWN = (_CONSOLE_SECRET, "HOLDFAST_CONSOLE_OIDC_SECRET")
_SECRETS_OF_THE_PLATFORM = (*_WAY_TO_THE_DATABASE, *_SIGNING, *_CONSOLES_OWN)
"""What the names begin with: the way to the database, and what signs effects, leases and cookies."""

_PAYLOADS = "HOLDFAST_PAYLOAD"
_KEPT_FROM: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("invoker", "checkpoint", "approval", "dispatcher"), (_PAYLOADS,)),
        "runner": _SECRETS_OF_THE_PLATFORM,
        "console": (*_WAY_TO_THE_DATABASE, *_SIGNING),
        "edge": (
            *_WAY_TO_THE_DATABASE,
            "HOLDFAST_CAPABILITY",
            "HOLDFAST_CONSOLE",
        ),  # it verifies with secrets
    }
)

FOUNDATION = ("invoker", "checkpoint", "approval", "dispatcher")
"""The kinds that stand before a runner starts, for it dials two of them."""

STOPPING = ("edge", "console", "runner", "invoker", "checkpoint", "dispatcher", "approval")
"""The kinds in the order they stop: leases are handed back while there is someone to take them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The shape of a suite; `environment` reaches every process, `environments` those of one kind or name.

    `modules` says by kind what is run instead of `holdfast.<kind>`.
    """

    agents: Sequence[str]
    invokers: int = 1
    runners: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    environments: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)
    console: bool = False
    edge: bool = False

    def names(self) -> list[str]:
        """Return the processes' names: the kind, from the second on with a number."""
        fronts = [name for name, wanted in (("console", self.console), ("edge", self.edge)) if wanted]
        return [
            *_numbered("invoker", self.invokers),
            *FOUNDATION[1:],
            *_numbered("runner", self.runners),
            *fronts,
        ]

    def module_of(self, name: str) -> str:
        """Return the module that a process runs."""
        kind = kind_of(name)
        return self.modules.get(kind, f"holdfast.{kind}")

    def environment_of(self, name: str, own: Mapping[str, str]) -> dict[str, str]:
        """Return all that a process is told; a runner and the fronts are told no secret of the others."""
        kind = kind_of(name)
        told = {**os.environ, **own, **self.environment}
        told |= {**self.environments.get(kind, _NONE), **(self.environments.get(name, _NONE))}
        kept = _KEPT_FROM.get(kind)
        return {key: value for key, value in told.items() if not (kept and key.startswith(kept))}

    def local_ease(self, name: str) -> dict[str, str]:
        """Return what is safe on one's own machine only, unless the environment says otherwise."""
        if kind_of(name) != "dispatcher":
            return {}
        variable = "HOLDFAST_ALLOW_PRIVATE_ADDRESSES"  # a webhook receiver under development is on loopback
        return {variable: os.environ.get(variable, "true")}

    def runner_environment(self, invokers: Sequence[str], checkpoint: str, approval: str) -> dict[str, str]:
        """Return what a runner is told of the others."""
        return {
            "HOLDFAST_AGENTS": ",".join(self.agents),
            "HOLDFAST_INVOKER_ADDRESS": ",".join(invokers),
            "HOLDFAST_CHECKPOINT_ADDRESS": checkpoint,
            "HOLDFAST_APPROVAL_ADDRESS": approval,
        }

    def console_environment(
        self, invokers: Sequence[str], addresses: Mapping[str, str], secret: str
    ) -> dict[str, str]:
        """Return what the console is told of the others, and the secret that it has unless told one."""
        others = {f"HOLDFAST_{name.upper()}_ADDRESS": addresses[name] for name in FOUNDATION[1:]}
        # One for all its lives: who has signed in stays so when it is started again.
        secret = os.environ.get(_CONSOLE_SECRET) or secret
        told = {"HOLDFAST_INVOKER_ADDRESS": ",".join(invokers), **others}
        return told if os.environ.get("HOLDFAST_CONSOLE_SECRET_FILE") else {**told, _CONSOLE_SECRET: secret}


def kind_of(name: str) -> str:
    """Return the service that a process is one of."""
    return name.partition("-")[0]


def _numbered(kind: str, count: int) -> list[str]:
    return [kind if number == 1 else f"{kind}-{number}" for number in range(1, count + 1)]
