"""Leases one run of a lab until it has ended, and lets the world act meanwhile."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from holdfast.agent.app import App
from holdfast.agent.budget import Usage
from holdfast.agent.child import Children
from holdfast.agent.engine.restart import within_pass
from holdfast.agent.model_ladder import Models
from holdfast.agent.testing.gate import LabGates
from holdfast.agent.testing.lease import Answers, Lease
from holdfast.agent.testing.ledger import RUN_ID, Ledger
from holdfast.agent.testing.result import Result, result_of
from holdfast.agent.testing.scene import Kill, Scene, Signal
from holdfast.agent.testing.script import Script, ScriptedModels


@dataclass(slots=True)
class Performance:
    """A run in the lab with what only the lab knows of it."""

    result: Result
    branched: bool
    """The agent went several ways at once, whose order may differ."""
    own: Usage
    """What is charged but for its children."""
    orphaned: bool
    """It was asked to stop by its parent's end, wherever it stood then."""
    deaths: list[tuple[Kill, str]] = field(default_factory=list)
    """The kills that happened, and in which step."""
    again: list[str] = field(default_factory=list)
    """The steps that were executed though they had an outcome."""
    children: "list[Performance]" = field(default_factory=list)


class Stage:
    """One run and its world."""

    def __init__(
        self,
        app: App,
        scene: Scene,
        *,
        children: Children,
        on_orphans: Callable[[], None],
        on_end: Callable[[], None],
        run_id: str = RUN_ID,
        kills: Iterable[Kill] = (),
    ) -> None:
        """Accept the run; `on_orphans` and `on_end` are called as `Ledger` says."""
        self.ledger = Ledger(scene, run_id, on_orphans=on_orphans, on_end=on_end)
        self.orphaned = False
        self._app = app
        self._scene = scene
        self._children = children
        self._kills = list(kills)
        self._lease: Lease | None = None
        self._deaths: list[tuple[Kill, str]] = []
        self._again: list[str] = []

    @property
    def ended(self) -> bool:
        """Whether the run has ended."""
        return self.ledger.outcome is not None

    def holds(self, epoch: int) -> bool:
        """Say whether the run is held under this epoch, by a runner that lives."""
        lease, ledger = self._lease, self.ledger
        return lease is not None and not lease.killed.done() and ledger.leased and ledger.epoch == epoch

    async def play(self) -> None:
        """Lease the run until it has ended. Raises AssertionError when a script was over before it was."""
        scene, ledger = self._scene, self.ledger
        scripted = _scripted(scene.model)
        models: Callable[[], Models] = self._app.models if scripted is None else lambda: scripted
        answers = Answers({key: list(each) for key, each in scene.answers.items()}, self.send)
        gates = LabGates(scene.decisions, self.send)
        self._world()
        killed = False
        try:
            while await ledger.ready():
                if scripted is not None:
                    scripted.leased(killed=killed)
                kill = self._kills[0] if self._kills else None
                lease = self._lease = Lease(
                    self._app, ledger, models, answers, gates=gates, children=self._children, kill=kill
                )
                await lease.run()
                self._lease = None
                self._again += lease.again
                killed = not lease.killed.cancelled()
                if kill is not None and killed:
                    self._deaths.append((self._kills.pop(0), lease.killed.result()))
                if ledger.leased:
                    ledger.lost()
        finally:
            self._lease = None
        if scripted is not None and scripted.over is not None:
            raise AssertionError(scripted.over)

    def performance(self, children: Iterable[Performance]) -> Performance:
        """Tell how the run has ended, and how its children have."""
        below, ledger = list(children), self.ledger
        return Performance(
            result_of(ledger, [each.result for each in below]),
            _branched(ledger),
            ledger.account.own,
            self.orphaned,
            self._deaths,
            self._again,
            below,
        )

    def send(self, payload: Any, key: str, urgent: bool = False, signal_id: str = "") -> None:  # noqa: FBT001, FBT002 -- a callback
        """Send the run a signal; one that has ended hears nothing."""
        if self.ended:
            return
        signal = self.ledger.signal(payload, key, urgent=urgent, signal_id=signal_id)
        if self._lease is not None:
            self._lease.push(signal)

    def cancel(self, reason: str = "") -> None:
        """Ask the run to stop; one that has ended stays as it is."""
        if self.ended:
            return
        self.ledger.cancel(reason)
        if self._lease is not None:
            self._lease.cancel()

    def _world(self) -> None:
        loop = asyncio.get_running_loop()
        # A loop has no order among what is due at once: those of one moment are sent by one call.
        for at, together in groupby(sorted(self._scene.signals, key=_at), _at):
            loop.call_later(at, self._send_all, list(together))
        if self._scene.cancel_at is not None:
            loop.call_later(self._scene.cancel_at, self.cancel)

    def _send_all(self, signals: Sequence[Signal]) -> None:
        for signal in signals:
            self.send(signal.payload, signal.key, signal.urgent)


def _at(signal: Signal) -> float:
    return signal.at


def _scripted(model: Script | Mapping[str, Script] | None) -> ScriptedModels | None:
    if model is None:
        return None
    return ScriptedModels({"scripted": model} if isinstance(model, Script) else model)


def _branched(ledger: Ledger) -> bool:
    """Say whether anything happened in a scope that is not the agent's first."""
    scopes = [key for key in ledger.emitted if key[:1].isalnum()]
    return bool(scopes) or any("/" in within_pass(record.key) for record in ledger.records)
