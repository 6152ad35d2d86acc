"""A run's mailbox on its runner: what waits, who waits for it, and which step an urgent signal interrupts.

arrived ──(those before it are here)──▶ waiting ──(received | interrupts a step)──▶ in hand ──▶ recorded
                                           ▲                                           │
                                           └──────────(the step came to nothing)───────┘

Signals are handed out in order of arrival. One that arrives before an earlier one is kept until that is here:
the ledger numbers them without gaps, and what was lost on the way is sent again. Nothing is consumed here:
that is for the commit with the record of the step that has received it.
"""

import asyncio
import bisect
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from holdfast.agent.wire.value import read
from holdfast.v1.mailbox_pb2 import MailboxSignal
from holdfast.v1.runner_service_pb2 import AttachSignal


@dataclass(frozen=True, slots=True, order=True)
class Signal:
    """A signal that is durable in the run's mailbox; `payload` is JSON."""

    sequence: int
    signal_id: str = field(compare=False)
    key: str = field(compare=False)
    payload: bytes = field(compare=False, repr=False)
    urgent: bool = field(compare=False, default=False)


def signal_of(message: MailboxSignal) -> Signal:
    """Read a signal as it comes from the ledger."""
    return Signal(message.sequence, message.signal_id, message.key, message.payload, message.urgent)


def pushed_signal(message: AttachSignal) -> Signal:
    """Read a signal as an Invoker pushes it that does not hold the runner's session."""
    payload = json.dumps(read(message.payload), ensure_ascii=False, separators=(",", ":")).encode()
    return Signal(message.sequence, message.signal_id, message.key, payload, message.urgent)


class Watch:
    """A step in flight that an urgent signal may cancel: its task, and the signal once it has."""

    __slots__ = ("_cancelling", "ended", "signal", "task")

    def __init__(self, task: "asyncio.Task[object]") -> None:
        self.task = task
        self._cancelling = task.cancelling()
        self.signal: Signal | None = None
        self.ended = False
        """The signal is what ended the step; else it waits again once the step is over."""

    def ends_step(self) -> Signal | None:
        """Return the signal if it is all that has cancelled the step: then it ends it."""
        if self.signal is not None and self.task.cancelling() - 1 <= self._cancelling:
            self.ended = True
            return self.signal
        return None


class Mailbox:
    """The signals of one run. Its bound is the ledger's: what is not consumed waits there, too."""

    __slots__ = ("_early", "_last", "_listeners", "_receivers", "_waiting", "_watches")

    def __init__(self) -> None:
        self._waiting: list[Signal] = []
        self._last = 0
        self._early: dict[int, Signal] = {}
        self._receivers: dict[str, list[asyncio.Future[Signal]]] = {}
        self._watches: list[Watch] = []
        self._listeners: list[Callable[[Signal], None]] = []

    def listen(self, heard: Callable[[Signal], None]) -> None:
        """Let `heard` know of each signal once, those that wait already among them; it must not raise."""
        self._listeners.append(heard)
        for signal in self._waiting:
            heard(signal)

    def close(self) -> None:
        """Let nobody know of signals any more."""
        self._listeners.clear()

    def loaded(self, waiting: Iterable[Signal], last: int) -> None:
        """Take in what the ledger says that waits, of all signals up to the sequence `last`."""
        for signal in sorted(waiting):
            if signal.sequence > self._last:
                self._heard(signal)
                self._offer(signal)
        self._last = max(self._last, last)
        self._early = {sequence: each for sequence, each in self._early.items() if sequence > self._last}
        self._follow_on()

    def arrived(self, signal: Signal) -> None:
        """Take in a signal that was pushed; one that is known already is passed over."""
        if signal.sequence > self._last:
            self._early[signal.sequence] = signal
            self._follow_on()

    async def receive(self, key: str) -> Signal:
        """Return the next signal of a key, waiting for it. It is the caller's to record, or to give back."""
        for place, signal in enumerate(self._waiting):
            if signal.key == key:
                return self._waiting.pop(place)
        future: asyncio.Future[Signal] = asyncio.get_running_loop().create_future()
        self._receivers.setdefault(key, []).append(future)
        try:
            return await future
        except BaseException:
            if future.done() and not future.cancelled():
                self.give_back(future.result())  # it came, and nobody was left to take it
            raise
        finally:
            if future in self._receivers.get(key, ()):
                self._receivers[key].remove(future)

    def waiting(self) -> Iterator[Signal]:
        """Yield what waits, in order of arrival; it goes on waiting."""
        return iter(self._waiting)

    def give_back(self, signal: Signal) -> None:
        """Let a signal wait again, in its old place: the step that had it came to nothing."""
        self._offer(signal)

    def urgent(self) -> Signal | None:
        """Return the first urgent signal that waits, to end the step that begins; it is the caller's."""
        for place, signal in enumerate(self._waiting):
            if signal.urgent:
                return self._waiting.pop(place)
        return None

    def watch(self) -> Watch:
        """Let the current task be interrupted from here on, until `unwatch`."""
        task = asyncio.current_task()
        assert task is not None  # a step is executed by a task
        watch = Watch(task)
        self._watches.append(watch)
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Let a step be interrupted no more; a signal that came, but did not end it, waits again."""
        if watch.signal is None:
            self._watches.remove(watch)
            return
        watch.task.uncancel()  # our cancellation has done its work, or came to nothing
        if not watch.ended:
            self._offer(watch.signal)

    def _heard(self, signal: Signal) -> None:
        for heard in self._listeners:
            heard(signal)

    def _follow_on(self) -> None:
        while (following := self._early.pop(self._last + 1, None)) is not None:
            self._last += 1
            self._heard(following)
            self._offer(following)

    def _offer(self, signal: Signal) -> None:
        """Hand a signal to who waits for it, else interrupt what it may, else let it wait."""
        for future in self._receivers.get(signal.key, ()):
            if not future.done():
                future.set_result(signal)
                return
        if signal.urgent and self._watches:
            watch = self._watches.pop(0)  # the one that began first
            watch.signal = signal
            watch.task.cancel()
            return
        bisect.insort(self._waiting, signal)
