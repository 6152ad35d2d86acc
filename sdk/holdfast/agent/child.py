"""A child as its parent has it: another run, whose result is awaited as a step's is."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pydantic import ValidationError

from holdfast.agent.budget import Usage
from holdfast.agent.codec import Shape, fields_of
from holdfast.agent.error import ChildFailed, Failure, NotRecordable, Permanent
from holdfast.v1.invoker_service_pb2 import InvokeRequest, InvokeResponse
from holdfast.v1.run_pb2 import OnParentEnd

POLICIES: Final = {
    "cancel": OnParentEnd.ON_PARENT_END_CANCEL,
    "continue": OnParentEnd.ON_PARENT_END_CONTINUE,
}


@dataclass(frozen=True, slots=True)
class ChildOutcome:
    """How a child ended: its status by name, what it returned or managed, why it failed, what it spent.

    `exhausted` names the limit that ended it, if its status is PARTIAL.
    """

    run_id: str
    status: str
    result: Any = None
    failure: Failure | None = None
    usage: Usage = field(default_factory=Usage)
    exhausted: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether the child has done what it was asked."""
        return self.status == "SUCCEEDED"


class Children(Protocol):
    """The way to the Invoker, as a runner has it."""

    async def invoke(self, asked: InvokeRequest) -> InvokeResponse:
        """Start a child, or find it. Waits while the service is away. Raises `Permanent` for a refusal."""

    async def cancel(self, tenant: str, run_id: str, reason: str) -> None:
        """Ask a child to stop. Waits while the service is away. Raises `Permanent` for a refusal."""


class _NoChildren:
    """Stands where no Invoker is known."""

    async def invoke(self, *_: object) -> InvokeResponse:
        """Refuse."""
        raise Permanent("this runner knows no Invoker that starts children", reason="NO_CHILDREN")

    async def cancel(self, *_: object) -> None:
        """Refuse."""
        raise Permanent("this runner knows no Invoker that cancels children", reason="NO_CHILDREN")


NO_CHILDREN: Final[Children] = _NoChildren()


class Child:
    """Another run that this one has started; await it for its result, as often and wherever you like."""

    def __init__(
        self,
        run_id: str,
        intent: str,
        shape: Shape,
        end: Callable[[], Awaitable[Any]],
        cancel: Callable[[str], Awaitable[None]],
    ) -> None:
        self.run_id = run_id
        self.intent = intent
        self._shape = shape
        self._end = end
        self._cancel = cancel
        self._turn = asyncio.Lock()
        self._outcome: ChildOutcome | None = None

    def __repr__(self) -> str:
        return f"Child({self.run_id}, {self.intent})"

    def __await__(self) -> Generator[Any, None, Any]:
        """Return the child's result, as `result`."""
        return self.result().__await__()

    async def result(self) -> Any:
        """Return what the child returned, once it has ended; the run rests meanwhile, held by no runner.

        A step of kind WAIT, recorded once however often it is awaited. Raises `ChildFailed` if it ended in
        another way than SUCCEEDED, and `NotRecordable` if what it returned does not fit its type.
        """
        ended = await self.outcome()
        if not ended.succeeded:
            raise ChildFailed(ended.run_id, self.intent, ended.status, ended.failure)
        try:
            return self._shape.accept(ended.result)
        except ValidationError as error:
            wrong = fields_of(error)
            raise NotRecordable(f"the result of the child {self.intent} does not fit: {wrong}") from error

    async def outcome(self) -> ChildOutcome:
        """Return how the child ended, however it did, once it has."""
        async with self._turn:  # whoever waits first waits for all
            if self._outcome is None:
                self._outcome = outcome_of(await self._end())
        return self._outcome

    async def cancel(self, reason: str = "") -> None:
        """Ask the child to stop, as a step; await its outcome to know that it has. Repeatable."""
        await self._cancel(reason)


def outcome_of(letter: Any) -> ChildOutcome:
    """Read the signal that tells a child's end."""
    failure, usage = letter["failure"], letter["usage"]
    return ChildOutcome(
        run_id=letter["run_id"],
        status=letter["status"],
        result=letter["result"],
        failure=None
        if failure is None
        else Failure(failure["reason"], failure["message"], failure["step"], failure["attempts"]),
        usage=Usage(usage["steps"], usage["tools"], usage["tokens"], usage["context"]),
        exhausted=letter["exhausted"] or "",
    )
