"""One lease of a run in the lab: it carries commits to the ledger, and may be cut short by a kill."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from holdfast.agent.app import App
from holdfast.agent.approval import Gates
from holdfast.agent.compensation import execution_of
from holdfast.agent.engine.journal import Answer, Committed
from holdfast.agent.engine.mailbox import Mailbox, Signal, signal_of
from holdfast.agent.error import RunCancelled
from holdfast.agent.execution import Execution, Parts
from holdfast.agent.model_ladder import Models
from holdfast.agent.testing.ledger import Ledger
from holdfast.agent.testing.scene import Kill
from holdfast.agent.wire.draft import Commit, Event
from holdfast.agent.wire.invocation import History
from holdfast.v1.mailbox_pb2 import MailboxSignal


class Answers:
    """What the world answers when the agent waits: by mailbox key, one payload after the other."""

    def __init__(self, answers: dict[str, list[Any]], send: Callable[[Any, str], None]) -> None:
        self._left = answers
        self._send = send

    def asked(self, key: str) -> None:
        """Send the next answer of a key, if there is one."""
        left = self._left.get(key)
        if left:
            self._send(left.pop(0), key)


class _Asking(Mailbox):
    """A mailbox that has somebody answer when nothing waits for who receives."""

    __slots__ = ("_answers", "_there")

    def __init__(self, answers: Answers, waiting: list[MailboxSignal]) -> None:
        super().__init__()
        self._answers = answers
        self._there = Counter(signal.key for signal in waiting)

    def arrived(self, signal: Signal) -> None:
        self._there[signal.key] += 1
        super().arrived(signal)

    async def receive(self, key: str) -> Signal:
        if self._there[key] <= 0:
            self._answers.asked(key)
        self._there[key] -= 1
        try:
            return await super().receive(key)
        except BaseException:
            self._there[key] += 1
            raise


class Lease:
    """A runner's hold on the run: a journal until it is killed, and deaf from then on."""

    def __init__(
        self,
        app: App,
        ledger: Ledger,
        models: Callable[[], Models],
        answers: Answers,
        *,
        gates: Gates,
        kill: Kill | None,
    ) -> None:
        self._ledger = ledger
        self._kill = kill
        self._loop = asyncio.get_running_loop()
        self.killed: asyncio.Future[str] = self._loop.create_future()
        """Done when the runner dies; says in which step it was."""
        self.again: list[str] = []
        """The steps that were executed though they had an outcome."""
        self._step = ""
        self._invocation = ledger.lease()
        page = ledger.page()
        self._history = History([page])
        self._mailbox = _Asking(answers, list(page.signals))
        self._agent = app.agents[self._invocation.intent]
        self._parts: Parts = {
            "models": models,
            "mailbox": self._mailbox,
            "gates": gates,
            "clock": self._loop.time,
        }
        self._execution: Execution | None = None
        self._cancelled = False

    async def run(self) -> None:
        """Execute the run until it leaves this runner, or the runner is killed."""
        running = self._loop.create_task(self._execute())
        try:
            futures: list[asyncio.Future[Any]] = [running, self.killed]
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._bury(running)

    async def _execute(self) -> None:
        self._execution = await execution_of(
            self._agent, self._invocation, self._history, self, **self._parts
        )
        if self._cancelled:
            self.cancel()
        await self._execution.run()

    def commit(self, commit: Commit, answered: Callable[[Answer], None]) -> None:
        """Carry a commit to the ledger; the answer comes on the loop's next round."""
        self._loop.call_soon(self._carry, commit, answered)

    def happened(self, event: Event) -> None:
        """Note which step is going on, and whether it may be."""
        if event.HasField("step_started"):
            self._step = event.step_started.key
            if self._ledger.has(self._step):
                self.again.append(self._step)

    def push(self, signal: MailboxSignal) -> None:
        """Push a signal to the runner."""
        self._mailbox.arrived(signal_of(signal))

    def cancel(self) -> None:
        """Tell the runner that somebody asks to cancel the run."""
        self._cancelled = True
        if self._execution is not None:
            self._execution.stop(RunCancelled())

    def _carry(self, commit: Commit, answered: Callable[[Answer], None]) -> None:
        if self.killed.done():
            return
        kill = self._kill
        if kill is None or kill.commit != commit.number:
            answered(self._ledger.commit(commit))
            return
        if kill.landed and not isinstance(self._ledger.commit(commit), Committed):
            return
        step = commit.steps[0].key if commit.steps else self._step
        self.killed.set_result(step)

    async def _bury(self, running: "asyncio.Task[Any]") -> None:
        """End everything that has run under this lease."""
        if not self.killed.done():
            self.killed.cancel()
        while True:
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            if not left:
                break
            for task in left:
                task.cancel()
            _, stubborn = await asyncio.wait(left, timeout=5.0)
            if stubborn:
                break
        if running.done() and not running.cancelled() and running.exception() is not None:
            running.result()
