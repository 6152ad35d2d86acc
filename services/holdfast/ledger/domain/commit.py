"""What may land: the decisions on a commit, apart from where a run is stored.

A commit lands if its lease is still the run's (*epoch*), the run is in execution (*status*), it is the next
(*number*), its events continue the transcript (*sequence*), and the budget bears it. The ledger checks all of
this in the predicate of its UPDATE; `verdict` says afterwards, of a commit that did not land, why.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from holdfast.ledger.domain.budget import Dimension, Limits, Usage, exceeded
from holdfast.ledger.domain.status import LEASED, RunStatus

NOT_WHILE_UNDOING: Final = frozenset(
    {RunStatus.PARKED, RunStatus.SUCCEEDED, RunStatus.PARTIAL, RunStatus.CANCELLED}
)
ONLY_WHILE_UNDOING: Final = frozenset({RunStatus.COMPENSATED})


class Charge(NamedTuple):
    """What a commit spends.

    `lead_tokens` are the tokens of all its calls but the last one that used any: the limit may be passed by
    one call in flight, so the limit must not have been reached before the last.
    """

    steps: int = 0
    tools: int = 0
    tokens: int = 0
    lead_tokens: int = 0
    context: int = 0

    @classmethod
    def of(cls, calls: Iterable[tuple[int, int, int, int]]) -> "Charge":
        """Sum up calls of (steps, tools, tokens, context), in the order they were made."""
        steps = tools = tokens = context = last = 0
        for call_steps, call_tools, call_tokens, call_context in calls:
            steps += call_steps
            tools += call_tools
            if call_tokens:
                tokens += call_tokens
                last = call_tokens
            context = max(context, call_context)
        return cls(steps, tools, tokens, tokens - last, context)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands, as far as a commit is concerned."""

    status: RunStatus
    epoch: int
    last_commit: int
    last_sequence: int
    spent: Usage
    limits: Limits
    undoing: bool = False


@dataclass(frozen=True, slots=True)
class Attempted:
    """A commit as it was sent. `first_sequence` is 0 if it carries no events.

    `end` is where it takes its run, None if that stays, or goes back to the queue.
    """

    epoch: int
    number: int
    first_sequence: int
    charge: Charge
    end: RunStatus | None = None


class Verdict(Enum):
    """Why a commit did not land, or that it need not."""

    LANDS = "nothing stands against it"
    STORED = "it is already stored"
    NOT_FOUND = "there is no such run"
    FENCED = "the lease is another's"
    OUT_OF_ORDER = "it is not the next commit"
    SEQUENCE = "its events do not follow the last committed event"
    MISPLACED = "a run ends otherwise while its steps are undone, and so only then"
    OVERSPENT = "the budget does not bear it"


def verdict(commit: Attempted, run: Standing | None) -> Verdict:
    """Decide about one commit; the first reason that holds, in the order the class names them."""
    if run is None:
        return Verdict.NOT_FOUND
    if commit.epoch == run.epoch and run.last_commit >= commit.number:
        return Verdict.STORED
    if commit.epoch != run.epoch or run.status not in LEASED:
        return Verdict.FENCED
    if commit.number != run.last_commit + 1:
        return Verdict.OUT_OF_ORDER
    if commit.first_sequence and commit.first_sequence != run.last_sequence + 1:
        return Verdict.SEQUENCE
    return _borne(commit, run)


def _borne(commit: Attempted, run: Standing) -> Verdict:
    """Decide about a commit that comes from where it may come from."""
    if commit.end in (NOT_WHILE_UNDOING if run.undoing else ONLY_WHILE_UNDOING):
        return Verdict.MISPLACED
    return Verdict.LANDS if overspent(commit.charge, run) is Dimension.NONE else Verdict.OVERSPENT


def overspent(charge: Charge, run: Standing) -> Dimension:
    """Name the limit a charge would pass; tokens may pass theirs by the last call, which was in flight.

    What costs nothing passes no limit, not even one that was lowered below what is spent.
    """
    spent = run.spent
    before_last = Usage(
        steps=spent.steps if charge.steps else 0,
        tools=spent.tools if charge.tools else 0,
        tokens=spent.tokens + charge.lead_tokens,
    )
    spending = Usage(charge.steps, charge.tools, charge.tokens, charge.context)
    return exceeded(before_last, spending, run.limits)
