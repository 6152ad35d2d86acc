"""Calls an agent with what a run has recorded, and lets it do nothing beyond that.

recorded steps asked for ──▶ returned ──┬─(the agent returns, raises, or asks otherwise)──▶ over
                                        └─(every branch is held at a step beyond)─────────▶ over

No model, tool or function of a step is called, and nothing is sent. Code between steps does run: what it
does to the world it does.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from holdfast.agent.app import Agent
from holdfast.agent.engine.journal import Answer, Committed
from holdfast.agent.engine.restart import of_pass
from holdfast.agent.error import RunStopped
from holdfast.agent.execution import Execution
from holdfast.agent.model_ladder import Models
from holdfast.agent.undo import Undoable
from holdfast.agent.wire.draft import Commit, Event
from holdfast.agent.wire.invocation import History, Invocation, Recorded

QUIET: Final = 0.05
"""Seconds without another step asked for after which a rerun that has come beyond the records is over."""
_TURNS: Final = 20
"""Turns of a busy loop that count as quiet, too: what is ready has gone on by then."""


class Beyond(RunStopped):
    """The agent asks for a step that is not recorded: here the rerun ends."""


class Asked(History):
    """A history that knows what was asked for."""

    __slots__ = ("_asked",)

    def __init__(self, history: History) -> None:
        super().__init__()
        self.take_over(history)
        self._asked: set[str] = set()

    @property
    def asked(self) -> int:
        """How many steps were asked for."""
        return len(self._asked)

    def leftover(self, path: str) -> tuple[str, ...]:
        """Return the steps of the pass with that scope, begun or recorded, that nobody has asked for."""
        return tuple(key for key in self.keys() if key not in self._asked and of_pass(key, path))

    def take(self, key: str) -> Recorded | None:
        """Return a step's record, once."""
        self._asked.add(key)
        return super().take(key)


class Rerun:
    """What came of it. `stopped` says what ended it before the agent did, `Beyond` at the step `first`."""

    def __init__(self, history: History) -> None:
        self.history = Asked(history)
        self.last: Commit | None = None
        """The move with which the run would end."""
        self.first = ""
        self.stopped: RunStopped | None = None
        self.path = ""
        """The scope of the agent's last pass: what passes before it have recorded nobody asks for."""
        self.used: dict[str, Undoable] = {}
        """The steps with an undo that were asked for."""
        self._reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def go(self, agent: Agent, invocation: Invocation, models: Callable[[], Models]) -> None:
        """Run the agent to its end, or until all its branches are held; at most for the run's time."""
        execution = Execution(agent, invocation, self.history, self, models=models, unrecorded=self.hold)
        running = asyncio.ensure_future(execution.run())
        settled = asyncio.ensure_future(self._settled())
        try:
            await asyncio.wait([running, settled], return_when=asyncio.FIRST_COMPLETED)
            execution.stop(Beyond())  # changes nothing where it has ended
            await running
        finally:
            for each in (running, settled):
                each.cancel()
        self.stopped = execution.stopped
        self.path = execution.restarts.path
        self.used = execution.undos.used

    def commit(self, commit: Commit, answered: Callable[[Answer], None]) -> None:
        """Take a commit as durable."""
        self.last = Commit.FromString(commit.SerializeToString())
        asyncio.get_running_loop().call_soon(answered, Committed())

    def happened(self, event: Event) -> None:
        """Tell nobody."""

    async def hold(self, key: str) -> None:
        """Hold a branch that asks for a step beyond the records, for good.

        The others may still ask for recorded steps, and drift: what is ahead in one branch says nothing of
        them.
        """
        self.first = self.first or key
        if not self._reached.done():
            self._reached.set_result(None)
        await asyncio.get_running_loop().create_future()

    async def _settled(self) -> None:
        """Return once a branch is held and the others ask for nothing more."""
        await self._reached
        asked = -1
        while asked != self.history.asked:
            asked = self.history.asked
            await asyncio.sleep(QUIET)
            for _ in range(_TURNS):
                await asyncio.sleep(0)
