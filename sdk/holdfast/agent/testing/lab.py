"""Runs an agent from its acceptance to its end, in memory, in no time."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from holdfast.agent.app import App
from holdfast.agent.testing.children import LabChildren
from holdfast.agent.testing.clock import VirtualLoop
from holdfast.agent.testing.result import Result
from holdfast.agent.testing.scene import Conditions, Kill, Scene
from holdfast.agent.testing.stage import Performance


class Lab:
    """Runs the agents of an app as the platform would, but for what outlives the process.

    Replay, commits, budgets, retries, parking and the mailbox are the real ones or do as they do; time is the
    lab's own and jumps. Predictions from measured durations are not: nothing takes time here.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    def run(
        self,
        intent: str,
        payload: Mapping[str, Any] | None = None,
        *,
        kills: Iterable[Kill] = (),
        **conditions: Unpack[Conditions],
    ) -> Result:
        """Run an agent until the run has ended, and say how. Blocks; no event loop may be running.

        `kills` are the deaths of its runner, one a lease; those of its children live. The children that go on
        without it are waited for. Raises ValueError for an intent the app does not serve, and AssertionError
        when a model's script is over before its run is.
        """
        scene = Scene(intent, payload or {}, **conditions)
        return perform(self._app, scene, kills).result

    async def run_async(
        self,
        intent: str,
        payload: Mapping[str, Any] | None = None,
        *,
        kills: Iterable[Kill] = (),
        **conditions: Unpack[Conditions],
    ) -> Result:
        """Run an agent as `run` does, from async code: on a loop of its own, in a thread.

        What belongs to the caller's loop, such as a connection, is of no use to the agent there.
        """
        scene = Scene(intent, payload or {}, **conditions)
        return (await asyncio.to_thread(perform, self._app, scene, kills)).result


def perform(app: App, scene: Scene, kills: Iterable[Kill] = ()) -> Performance:
    """Run a scene on a loop of its own. Raises ValueError for an intent that the app does not serve."""
    for intent in sorted(scene.intents):
        if intent not in app.agents:
            raise ValueError(
                f"The app {app.name} has no agent for {intent}; it serves {', '.join(sorted(app.agents))}."
            )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("A lab runs on a loop of its own: here, await run_async.")

    async def play() -> Performance:
        return await LabChildren(app).play(scene, kills)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(play())
