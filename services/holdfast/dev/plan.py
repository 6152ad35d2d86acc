"""What the suite consists of: which processes, how many, and what each is told by its environment."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

_NONE: Mapping[str, str] = MappingProxyType({})
_SECRETS_OF_THE_PLATFORM = (
    "HOLDFAST_DATABASE_URL",
    "HOLDFAST_SECRET",
    "HOLDFAST_CAPABILITY",
    "PGPASS",
    "PGSERVICEFILE",
)
"""What the names begin with: the way to the database, what effects are signed with, and leases."""

FOUNDATION = ("invoker", "checkpoint", "approval", "dispatcher")
"""The kinds that stand before a runner starts, for it dials two of them."""

STOPPING = ("runner", "invoker", "checkpoint", "dispatcher", "approval")
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

    def names(self) -> list[str]:
        """Return the processes' names: the kind, from the second on with a number."""
        return [*_numbered("invoker", self.invokers), *FOUNDATION[1:], *_numbered("runner", self.runners)]

    def module_of(self, name: str) -> str:
        """Return the module that a process runs."""
        kind = kind_of(name)
        return self.modules.get(kind, f"holdfast.{kind}")

    def environment_of(self, name: str, own: Mapping[str, str]) -> dict[str, str]:
        """Return all that a process is told; a runner is told no secret of the platform."""
        kind = kind_of(name)
        told = {**os.environ, **own, **self.environment}
        told |= {**self.environments.get(kind, _NONE), **(self.environments.get(name, _NONE))}
        if kind == "runner":
            told = {key: value for key, value in told.items() if not key.startswith(_SECRETS_OF_THE_PLATFORM)}
        return told

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


def kind_of(name: str) -> str:
    """Return the service that a process is one of."""
    return name.partition("-")[0]


def _numbered(kind: str, count: int) -> list[str]:
    return [kind if number == 1 else f"{kind}-{number}" for number in range(1, count + 1)]
