"""Finds the agents to run by the names of their apps, or says in one sentence why it cannot."""

import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from holdfast.agent import Agent, App
from holdfast.agent.model_ladder import Models
from holdfast.kit.process import Refused
from holdfast.v1 import work_service_pb2
from holdfast.v1.work_service_pb2 import ServedIntent

_POLICIES: Final = {
    "enqueue": work_service_pb2.INPUT_POLICY_ENQUEUE,
    "interrupt": work_service_pb2.INPUT_POLICY_INTERRUPT,
    "reject": work_service_pb2.INPUT_POLICY_REJECT,
}


@dataclass(frozen=True, slots=True)
class Served:
    """An agent and the app it belongs to."""

    app: App
    agent: Agent

    def models(self) -> Models:
        """Return the models that the agent may ask."""
        return self.app.models()


class Agents:
    """All agents of this runner, by intent."""

    def __init__(self, apps: Iterable[App]) -> None:
        self.apps = tuple(apps)
        self._served: dict[str, Served] = {}
        for app in self.apps:
            for agent in app.agents.values():
                if agent.intent in self._served:
                    raise Refused(f"Two of the apps have an agent for the intent {agent.intent}.")
                self._served[agent.intent] = Served(app, agent)
        if not self._served:
            raise Refused("None of the apps has an agent: there is nothing to run.")

    def find(self, intent: str) -> Served | None:
        """Return the agent for an intent."""
        return self._served.get(intent)

    def intents(self) -> list[ServedIntent]:
        """Return what an Invoker is told that this runner serves."""
        return [
            ServedIntent(
                intent=intent,
                agent_version=served.agent.version,
                compatible_versions=served.app.compatible_versions,
                max_concurrent=served.agent.max_concurrent,
                on_input=_POLICIES[served.agent.on_input],
            )
            for intent, served in sorted(self._served.items())
        ]

    async def close(self) -> None:
        """Close what the apps hold open."""
        for app in self.apps:
            await app.close()


def import_apps(names: Iterable[str]) -> list[App]:
    """Import apps named `module:name`, from the working directory too. Raises `Refused`."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return [_import_app(name) for name in names]


def _import_app(name: str) -> App:
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise Refused(f"{name!r} names no app: it must be module:name, for example agents.triage:app.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise  # the module is there; what it imports is not, and the traceback says where
        raise Refused(f"There is no module {module_name}, looked for from {Path.cwd()}.") from error
    app = getattr(module, attribute, None)
    if app is None:
        apps = sorted(each for each, value in vars(module).items() if isinstance(value, App))
        known = f" It has {', '.join(apps)}." if apps else ""
        raise Refused(f"The module {module_name} has no app {attribute}.{known}")
    if not isinstance(app, App):
        raise Refused(f"{name} is a {type(app).__name__}, and must be a holdfast.agent.App.")
    return app
