"""What a run in the lab may spend, has spent, and has lent to its children, as the real ledger reckons.

A child's steps, tools and tokens are set aside from its parent's while it goes on. Its end gives them back,
and charges what the child has spent.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from holdfast.agent.budget import Limits, Usage
from holdfast.agent.error import Permanent
from holdfast.agent.wire.draft import Commit

SHARE: Final = 16
"""Where a child asks for nothing it gets one part in so many of what its parent has left."""
KEPT_STEPS: Final = 2
"""Steps that are never lent: the parent records that it has started the child, and how it has ended."""


class Account:
    """The budget of one run over all its leases."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._own = Usage()
        self._charged = Usage()
        self._lent = Usage()

    @property
    def spent(self) -> Usage:
        """What is charged, for what its children have spent, too; a copy."""
        own, others = self._own, self._charged
        return Usage(
            own.steps + others.steps, own.tools + others.tools, own.tokens + others.tokens, own.context
        )

    @property
    def own(self) -> Usage:
        """What is charged but for its children; a copy."""
        return _sum([self._own])

    @property
    def lent(self) -> Usage:
        """What is set aside for children that have not ended; a copy."""
        return _sum([self._lent])

    def bears(self, commit: Commit) -> bool:
        """Say whether the budget bears a commit; only the last call may pass the limit of tokens."""
        charges = _charges(commit)
        spent, lent, asked, limits = self.spent, self._lent, _sum(charges), self.limits
        lead = asked.tokens - (charges[-1].tokens if charges else 0)
        return (
            (not asked.steps or spent.steps + lent.steps + asked.steps <= limits.steps)
            and (not asked.tools or spent.tools + lent.tools + asked.tools <= limits.tools)
            and (not asked.tokens or spent.tokens + lent.tokens + lead < limits.tokens)
            and asked.context <= limits.context
        )

    def charge(self, commit: Commit) -> None:
        """Charge a commit that has landed."""
        self._own = _sum([self._own, *_charges(commit)])

    def lend(self, asked: Limits) -> Limits:
        """Set aside what a child asks for, a share where that is 0, and return the limits it has then.

        The deadline is as asked. Raises `Permanent` for what does not fit.
        """
        limits, spent, lent = self.limits, self.spent, self._lent
        if asked.context > limits.context:
            raise _cannot_lend("context", limits.context)
        steps = _given("steps", asked.steps, limits.steps - spent.steps - lent.steps - KEPT_STEPS)
        tools = _given("tools", asked.tools, limits.tools - spent.tools - lent.tools)
        tokens = _given("tokens", asked.tokens, limits.tokens - spent.tokens - lent.tokens)
        self._lent = _sum([lent, Usage(steps, tools, tokens)])
        return Limits(asked.deadline, steps, tools, tokens, asked.context or limits.context)

    def settle(self, returned: Usage, spent: Usage) -> None:
        """Take back what of a loan is lent no more, and charge what was spent of it."""
        self._lent.steps -= returned.steps
        self._lent.tools -= returned.tools
        self._lent.tokens -= returned.tokens
        self._charged = _sum([self._charged, spent])

    def pass_on(self) -> Usage:
        """Lend nothing more; return what was still lent, which is from now on the lender's to take back."""
        lent, self._lent = self._lent, Usage()
        return lent


def _given(dimension: str, asked: int, left: int) -> int:
    wanted = asked or max(1, left // SHARE)
    if wanted > left:
        raise _cannot_lend(dimension, max(0, left))
    return wanted


def _cannot_lend(dimension: str, left: int) -> Permanent:
    return Permanent(f"The parent can lend {left} of its {dimension}.", reason="BUDGET_EXCEEDED")


def _charges(commit: Commit) -> Sequence[Any]:
    """Return what a commit charges, step by step; an intent charges nothing."""
    charges: list[Any] = [record.usage for record in commit.steps if not record.intent]
    return [*charges, commit.usage] if commit.HasField("usage") else charges


def _sum(charges: Iterable[Any]) -> Usage:
    total = Usage()
    for usage in charges:
        total.steps += usage.steps
        total.tools += usage.tools
        total.tokens += usage.tokens
        total.context = max(total.context, usage.context)
    return total
