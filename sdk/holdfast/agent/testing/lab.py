"""Runs an agent from its acceptance to its end, in memory, in no time."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Unpack

from holdfast.agent.app import App
from holdfast.agent.model_ladder import Models
from holdfast.agent.testing.clock import VirtualLoop
from holdfast.agent.testing.gate import LabGates
from holdfast.agent.testing.lease import Answers, Lease
from holdfast.agent.testing.ledger import Ledger
from holdfast.agent.testing.result import Result, result_of
from holdfast.agent.testing.scene import Conditions, Kill, Scene
from holdfast.agent.testing.script import Script, ScriptedModels


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

        `kills` are the deaths of its runner, one a lease. Raises ValueError for an intent the app does not
        serve, and AssertionError when a model's script is over before the run is.
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


@dataclass(slots=True)
class Performance:
    """A run in the lab with what only the lab knows of it."""

    result: Result
    branched: bool
    """The agent went several ways at once, whose order may differ."""
    deaths: list[tuple[Kill, str]] = field(default_factory=list)
    """The kills that happened, and in which step."""
    again: list[str] = field(default_factory=list)
    """The steps that were executed though they had an outcome."""


def perform(app: App, scene: Scene, kills: Iterable[Kill] = ()) -> Performance:
    """Run a scene on a loop of its own. Raises ValueError for an intent that the app does not serve."""
    if scene.intent not in app.agents:
        raise ValueError(
            f"The app {app.name} has no agent for {scene.intent}; it serves {', '.join(sorted(app.agents))}."
        )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("A lab runs on a loop of its own: here, await run_async.")
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_Stage(app, scene, list(kills)).play())


class _Stage:
    """Leases the run until it has ended, and lets the world act meanwhile."""

    def __init__(self, app: App, scene: Scene, kills: list[Kill]) -> None:
        self._app = app
        self._scene = scene
        self._kills = kills
        self._lease: Lease | None = None

    async def play(self) -> Performance:
        scene = self._scene
        ledger = self._ledger = Ledger(scene)
        scripted = _scripted(scene.model)
        models: Callable[[], Models] = self._app.models if scripted is None else lambda: scripted
        answers = Answers({key: list(each) for key, each in scene.answers.items()}, self._send)
        gates = LabGates(scene.decisions, self._send)
        self._world()
        deaths: list[tuple[Kill, str]] = []
        again: list[str] = []
        killed = False
        try:
            while await ledger.ready():
                if scripted is not None:
                    scripted.leased(killed=killed)
                kill = self._kills[0] if self._kills else None
                lease = self._lease = Lease(self._app, ledger, models, answers, gates=gates, kill=kill)
                await lease.run()
                self._lease = None
                again += lease.again
                killed = not lease.killed.cancelled()
                if kill is not None and killed:
                    deaths.append((self._kills.pop(0), lease.killed.result()))
                if ledger.leased:
                    ledger.lost()
        finally:
            self._lease = None
        if scripted is not None and scripted.over is not None:
            raise AssertionError(scripted.over)
        return Performance(result_of(ledger), _branched(ledger), deaths, again)

    def _world(self) -> None:
        loop = asyncio.get_running_loop()
        for signal in sorted(self._scene.signals, key=lambda signal: signal.at):
            loop.call_later(signal.at, self._send, signal.payload, signal.key, signal.urgent)
        if self._scene.cancel_at is not None:
            loop.call_later(self._scene.cancel_at, self._cancel)

    def _send(self, payload: Any, key: str, urgent: bool = False) -> None:  # noqa: FBT001, FBT002 -- a callback
        if self._ledger.outcome is not None:
            return
        signal = self._ledger.signal(payload, key, urgent=urgent)
        if self._lease is not None:
            self._lease.push(signal)

    def _cancel(self) -> None:
        self._ledger.cancel()
        if self._lease is not None:
            self._lease.cancel()


def _scripted(model: Script | Mapping[str, Script] | None) -> ScriptedModels | None:
    if model is None:
        return None
    return ScriptedModels({"scripted": model} if isinstance(model, Script) else model)


def _branched(ledger: Ledger) -> bool:
    """Say whether anything happened in a scope that is not the agent's first."""
    scopes = [key for key in ledger.emitted if key[:1].isalnum()]
    return bool(scopes) or any("/" in record.key for record in ledger.records)
