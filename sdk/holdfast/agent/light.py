"""A light item of a batch: executed as a run is, but recorded by nobody until its chunk is.

Its steps live in memory, so after a crash all of it is executed again. What needs the ledger while it runs is
refused: effects, waits that would let it rest, gates, children, undos.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast.agent.approval import Opened
from holdfast.agent.budget import Usage
from holdfast.agent.engine.journal import Answer, Committed, Refused
from holdfast.agent.error import Failure, Permanent
from holdfast.agent.wire import value as json_value
from holdfast.agent.wire.draft import CANCELLED, FAILED, SUCCEEDED, Commit, Event
from holdfast.agent.wire.invocation import read_failure
from holdfast.v1.invoker_service_pb2 import InvokeResponse
from holdfast.v1.run_pb2 import Outcome

REASON: Final = "LIGHT_ITEM"
RETRYABLE: Final = 10
AGAIN: Final = 0
"""How an item ended, beside the statuses of runs: it may be tried again; it was not executed to its end."""

_WHY: Final = "a light item cannot {}; serve the intent without light=True"


@dataclass(slots=True)
class Ended:
    """How an item ended: a status, what it returned as JSON text, why it failed, what it has spent."""

    status: int = AGAIN
    result: str | None = None
    failure: Failure | None = None
    exhausted: int = 0
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    alone: bool = False
    """Whether it is to be a chunk of its own next time."""


class Memory:
    """The journal of one item: takes every commit as durable, and keeps how it ends and what it has spent."""

    def __init__(self) -> None:
        self._ended = Ended()
        self._refusal: Failure | None = None

    @property
    def ended(self) -> Ended:
        """How the item ended; one that did what it cannot has failed, whatever came after."""
        if self._refusal is not None and self._ended.status != CANCELLED:
            return Ended(FAILED, failure=self._refusal, usage=self._ended.usage)
        return self._ended

    def commit(self, commit: Commit, answered: Callable[[Answer], None]) -> None:
        """Take a commit, or refuse what only a run can do."""
        wanted = _wanted(commit)
        answer: Answer = Committed()
        if wanted:
            self._refusal = self._refusal or Failure(REASON, _WHY.format(wanted))
            answer = Refused(REASON, self._refusal.message)
        else:
            self._charge(commit)
            self._note_end(commit)
        asyncio.get_running_loop().call_soon(answered, answer)

    def happened(self, event: Event) -> None:
        """Tell nobody."""

    def _charge(self, commit: Commit) -> None:
        spent = self._ended.usage
        spent.steps += sum(not record.intent for record in commit.steps)
        for usage in (*(record.usage for record in commit.steps), commit.usage):
            spent.tools += usage.tools
            spent.tokens += usage.tokens
            spent.context = max(spent.context, usage.context)

    def _note_end(self, commit: Commit) -> None:
        kind = commit.WhichOneof("move")
        if kind == "end":
            _read_outcome(commit.end, self._ended)
        elif kind == "requeue" and not commit.requeue.blameless:
            self._ended.status = RETRYABLE
            self._ended.failure = read_failure(commit.requeue.failure)


class Nowhere:
    """Stands where gates and children of a light item would be."""

    async def request(self, *_: object) -> Opened:
        """Refuse."""
        raise Permanent(_WHY.format("ask people"), reason=REASON)

    async def invoke(self, *_: object) -> InvokeResponse:
        """Refuse."""
        raise Permanent(_WHY.format("start children"), reason=REASON)

    async def cancel(self, *_: object) -> None:
        """Refuse."""
        raise Permanent(_WHY.format("have children"), reason=REASON)


def _wanted(commit: Commit) -> str:
    """Say what a commit asks for that an item cannot have."""
    if commit.effects:
        return "stage effects"
    if commit.HasField("park"):
        return "rest until a signal or a time"
    if commit.HasField("compensation") or commit.HasField("compensate"):
        return "have steps undone"
    return ""


def _read_outcome(outcome: Outcome, ended: Ended) -> None:
    ended.status, ended.exhausted = int(outcome.status), int(outcome.exhausted)
    if outcome.HasField("failure"):
        ended.failure = read_failure(outcome.failure)
    if ended.status == SUCCEEDED:
        found: Any = json_value.read(outcome.result)
        ended.result = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
