"""Finds the agents to run by the names of their apps, or says in one sentence why it cannot."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from holdfast.agent import Agent, App, app_import
from holdfast.agent.chunk import SUFFIX
from holdfast.agent.model_ladder import Models
from holdfast.kit.process import Refused
from holdfast.v1 import work_service_pb2
from holdfast.v1.work_service_pb2 import ServedIntent

_POLICIES: Final = {
    "enqueue": work_service_pb2.INPUT_POLICY_ENQUEUE,
    "interrupt": work_service_pb2.INPUT_POLICY_INTERRUPT,
    "reject": work_service_pb2.INPUT_POLICY_REJECT,
    "restart": work_service_pb2.INPUT_POLICY_RESTART,
}


@dataclass(frozen=True, slots=True)
class Served:
    """An agent and the app it belongs to."""

    app: App
    agent: Agent
    chunks: bool = False
    """Whether what is to be executed is a chunk of light items."""

    def models(self) -> Models:
        """Return the models that the agent may ask."""
        return self.app.models()


class Agents:
    """All agents of this runner, by intent."""

    def __init__(self, apps: Iterable[App]) -> None:
        self.apps = tuple(apps)
        self._served: dict[str, Served] = {}
        self._chunks: dict[str, Served] = {}
        for app in self.apps:
            for agent in app.agents.values():
                if agent.intent in self._served:
                    raise Refused(f"Two of the apps have an agent for the intent {agent.intent}.")
                self._served[agent.intent] = Served(app, agent)
                if agent.light:
                    self._chunks[agent.intent + SUFFIX] = Served(app, agent, chunks=True)
        if not self._served:
            raise Refused("None of the apps has an agent: there is nothing to run.")

    def find(self, intent: str) -> Served | None:
        """Return the agent for an intent, or for chunks of light items of one."""
        return self._served.get(intent) or self._chunks.get(intent)

    def intents(self) -> list[ServedIntent]:
        """Return what an Invoker is told that this runner serves."""
        return [
            ServedIntent(
                intent=intent,
                agent_version=served.agent.version,
                compatible_versions=served.app.compatible_versions,
                max_concurrent=served.agent.max_concurrent,
                on_input=_POLICIES[served.agent.on_input],
                light_items=served.agent.light,
                critical_destinations=served.agent.critical,
            )
            for intent, served in sorted(self._served.items())
        ]

    async def close(self) -> None:
        """Close what the apps hold open."""
        for app in self.apps:
            await app.close()


def import_apps(names: Iterable[str]) -> list[App]:
    """Import apps named `module:name`, from the working directory too. Raises `Refused`."""
    try:
        return app_import.import_apps(names)
    except app_import.NoSuchApp as error:
        raise Refused(str(error)) from error
