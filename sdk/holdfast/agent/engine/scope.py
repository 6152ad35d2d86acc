"""Where in a run something is asked for, named so that a replay finds the same name again.

A step's key is its scope, its name, and how often the name was asked for in that scope before: `fetch`,
`fetch#2`, `map.3/fetch`. Which of two tasks asks next may differ in a replay, so each task an agent starts is
a scope of its own, numbered when it is created, not when it first runs: `task/fetch`, `task#2/fetch`. Inside
of a step nothing is numbered: a replay does not go there.
"""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from holdfast.agent.engine.mailbox import Signal
from holdfast.agent.engine.observer import NOBODY, Observer
from holdfast.agent.engine.patch import ahead_of, mark_of, whole
from holdfast.agent.wire.draft import EXPECTED, MOVED, STAGED, Effect


class Tokens:
    """Pieces of speech that wait to be told as one event."""

    __slots__ = ("calls", "pieces", "size", "timer")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.size = 0
        self.calls = 0
        self.timer: asyncio.TimerHandle | None = None


class Place:
    """Where the code that runs now stands: in a scope, or in a step of one."""

    __slots__ = ("owner", "step", "tokens")

    def __init__(self, owner: "Family", step: str = "") -> None:
        self.owner = owner
        self.step = step
        self.tokens: Tokens | None = None


class Scope(Place):
    """Counts what is asked for and said in one task of the agent."""

    __slots__ = (
        "_ahead",
        "_counts",
        "_inside",
        "_patches",
        "expected",
        "expected_before",
        "moved_at",
        "path",
        "said",
        "staged",
        "staged_before",
        "told_before",
    )

    def __init__(self, owner: "Family", path: str) -> None:
        super().__init__(owner)
        self.path = path
        self._counts: dict[str, int] = {}
        self._ahead = set(owner.ahead.get(path, ()))
        self._inside = path in owner.replaying or whole(path) in owner.replaying
        self._patches: dict[str, bool] = {}
        self.said = 0
        self.told_before = owner.emitted.get(path, 0)
        self.staged = 0
        self.staged_before = owner.emitted.get(path + STAGED, 0)
        self.expected = 0
        self.expected_before = owner.emitted.get(path + EXPECTED, 0)
        self.moved_at = owner.emitted.get(path + MOVED, 0)

    def key(self, name: str) -> str:
        """Return the key of the next use of a name."""
        count = self._counts.get(name, 0) + 1
        self._counts[name] = count
        if count > 1:
            name = f"{name}#{count}"
        key = f"{self.path}/{name}" if self.path else name
        if self.owner.ahead:
            self._ahead.discard(name)
            self._ahead.discard(whole(name))
            if self.replaying:
                self.owner.replaying.add(key)
        return key

    @property
    def replaying(self) -> bool:
        """Whether an earlier attempt has recorded what comes after this point of the scope."""
        return (
            self._inside
            or bool(self._ahead)
            or self.said < self.told_before
            or self.staged < self.staged_before
            or self.expected < self.expected_before
        )

    def patched(self, patch: str) -> tuple[bool, str]:
        """Say whether the scope goes the new way, and the mark to commit, empty if there is none to.

        The first answer counts for the scope; the mark is durable before anything that depends on it.
        """
        answer = self._patches.get(patch)
        if answer is not None:
            return answer, ""
        mark = mark_of(self.path, patch)
        before = mark in self.owner.emitted
        answer = self._patches[patch] = before or not self.replaying
        return answer, mark if answer and not before else ""

    def passed(self, name: str) -> None:
        """Note that a key of this scope that was made out of another is asked for."""
        self._ahead.discard(name)

    def child(self, name: str) -> "Scope":
        """Begin a scope inside of this one."""
        return Scope(self.owner, self.key(name))


class Frame(Place):
    """One try of a step: its effects count only if it succeeds."""

    __slots__ = ("context", "effects", "received", "restarts", "sent", "tokens_used")

    def __init__(self, owner: "Family", step: str) -> None:
        super().__init__(owner, step)
        self.effects: list[Effect] = []
        self.sent = 0
        self.tokens_used = 0
        self.context = 0
        self.received: Signal | None = None
        """The signal that leaves the mailbox with the step's record."""
        self.restarts = False
        """With that record the agent begins anew."""


class Family:
    """All tasks of one run, and what its scopes have told in earlier attempts."""

    __slots__ = ("ahead", "emitted", "observer", "replaying", "stopping", "tasks")

    def __init__(
        self, emitted: dict[str, int], keys: Iterable[str] = (), observer: Observer = NOBODY
    ) -> None:
        """Take the `keys` of the steps that are recorded, and who watches."""
        self.emitted = emitted
        self.observer = observer
        self.ahead = ahead_of(keys)
        self.replaying: set[str] = set()
        """The keys asked for while their scope was replaying: what is inside of them is, too."""
        self.stopping = False
        self.tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, Any], scope: Scope) -> "asyncio.Task[Any]":
        """Start a task in a scope that is already named."""
        context = contextvars.copy_context()
        context.run(here.set, scope)
        return self.adopt(asyncio.Task(coroutine, loop=asyncio.get_running_loop(), context=context))

    def adopt(self, task: "asyncio.Task[Any]") -> "asyncio.Task[Any]":
        """Hold a task until it is done."""
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self.tasks.discard(task)
        if self.stopping and not task.cancelled():
            task.exception()  # that it was stopped is nothing to complain about when nobody asks


here: contextvars.ContextVar[Place | None] = contextvars.ContextVar("holdfast_place", default=None)


def number_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Have each task that agent code creates on this loop named when it is created. Repeatable.

    A task factory that is already set goes on making the tasks.
    """
    made_by = loop.get_task_factory()
    if not isinstance(made_by, _TaskFactory):
        loop.set_task_factory(_TaskFactory(made_by))  # type: ignore[arg-type]  # its tasks are futures


class _TaskFactory:
    """Makes tasks; those of agent code get a scope, all others are none of ours."""

    def __init__(self, make: Callable[..., Any] | None) -> None:
        self._make = make or _make_task

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> "asyncio.Task[Any]":
        given = options.get("context")
        place = here.get() if given is None else given.get(here)
        if not isinstance(place, Scope):
            return self._make(loop, coroutine, **options)
        context = contextvars.copy_context() if given is None else given.copy()
        context.run(here.set, place.child("task"))
        options["context"] = context
        return place.owner.adopt(self._make(loop, coroutine, **options))


def _make_task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> "asyncio.Task[Any]":
    return asyncio.Task(coroutine, loop=loop, **options)
