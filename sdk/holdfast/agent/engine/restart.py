"""An agent whose input policy is "restart" begins anew when input comes, knowing all that was said so far.

input arrives ──(a step with an undo has begun)──▶ it waits, as it would with "enqueue"
   └──▶ the run is handed back ──(next lease)──▶ the input is recorded ──▶ the agent is called anew

Each pass has a scope named by the record that began it, so that nothing of the pass before is replayed, or
taken for drift. Whoever dies in between finds either the input waiting or its record, and does the same.
"""

import json
from typing import Any, Final

from holdfast.agent.engine.call import Call
from holdfast.agent.engine.halt import Stops
from holdfast.agent.engine.mailbox import Mailbox, Signal
from holdfast.agent.engine.scope import Frame
from holdfast.agent.engine.stepper import Stepper
from holdfast.agent.engine.wait import ONCE, SIGNAL
from holdfast.agent.error import HandedBack
from holdfast.agent.undo import Undos
from holdfast.agent.wire.draft import WAIT
from holdfast.agent.wire.invocation import History

INPUT: Final = "input"
"""The mailbox key that the policy speaks of."""
RESTART: Final = "!restart"
"""The key of what began the second pass; `!restart#2` that of the third. No step of an author's has it."""


class Restarts:
    """Begins the passes of one run."""

    __slots__ = ("_history", "_live", "_mailbox", "_stops", "_undos", "_wanted", "inputs", "path")

    def __init__(
        self, mailbox: Mailbox, history: History, undos: Undos, stops: Stops, *, wanted: bool
    ) -> None:
        """Take whether the agent's policy is to be called anew; without that input changes nothing here."""
        self._mailbox = mailbox
        self._history = history
        self._undos = undos
        self._stops = stops
        self._wanted = wanted
        self._live = False
        self.inputs: tuple[Any, ...] = ()
        """What was said to the run that had its agent begin anew, the oldest first."""
        self.path = ""
        """The scope of the pass that goes on."""
        if wanted:
            mailbox.listen(self._heard)

    @property
    def keys(self) -> tuple[str, ...]:
        """The mailbox keys that wake the run, whatever its agent waits for."""
        return (INPUT,) if self._possible else ()

    async def begin(self, stepper: Stepper) -> None:
        """Come to the pass that is to go on: past those recorded, and on to what input that waits begins."""
        count = 1
        while True:
            key = RESTART if count == 1 else f"{RESTART}#{count}"
            if not self._history.has(key) and not (self._possible and self._waits()):
                break
            _, payload = await stepper.perform(key, self._call())
            self.inputs = (*self.inputs, payload)
            self.path = key
            count += 1
        self._live = True

    @property
    def _possible(self) -> bool:
        return self._wanted and not self._undos.keys

    def _waits(self) -> bool:
        return any(signal.key == INPUT for signal in self._mailbox.waiting())

    def _heard(self, signal: Signal) -> None:
        if self._live and signal.key == INPUT and self._possible:
            self._stops.stop(HandedBack())

    def _call(self) -> Call:
        async def execute(_: str, frame: Frame) -> tuple[str, Any]:
            frame.received = signal = await self._mailbox.receive(INPUT)
            frame.restarts = True
            return signal.signal_id, json.loads(signal.payload)

        return Call(name=RESTART, kind=WAIT, input={}, policy=ONCE, result=SIGNAL, execute=execute)


def within_pass(key: str) -> str:
    """Return what a step's key is within its pass."""
    return key.partition("/")[2] if key.startswith(RESTART) else key


def of_pass(key: str, path: str) -> bool:
    """Say whether a step's key is of the pass with that scope."""
    return key.startswith(f"{path}/") if path else not key.startswith(RESTART)
