"""What a run may lend its children, and how many it may have.

A child's limits are set aside from its parent's before it starts, so that both together can never spend more
than the parent alone could have. Three limits are lent: steps, tools and tokens. The deadline is shared, and
the context is of one model call.
"""

from dataclasses import dataclass
from typing import Final

from holdfast.ledger.domain.budget import Dimension, Limits, Usage

DEEPEST: Final = 16
"""How many runs may stand above a child."""
MOST: Final = 1000
"""Children that one run may start in its life."""
SHARE: Final = 16
"""Where a child asks for nothing it gets one part in so many of what its parent has left."""
KEPT_STEPS: Final = 2
"""Steps that are never lent: the parent records that it has started the child, and how it has ended."""


@dataclass(frozen=True, slots=True)
class Loan:
    """What of a budget's sums is set aside for a child."""

    steps: int = 0
    tools: int = 0
    tokens: int = 0


class CannotLend(Exception):  # noqa: N818 - reads as what is the matter
    """The parent has not enough left; `dimension` names of what, `left` says how much it could lend."""

    def __init__(self, dimension: Dimension, left: int) -> None:
        super().__init__(f"The parent can lend {left} of its {dimension.name.lower()}.")
        self.dimension = dimension
        self.left = left


def lend(asked: Limits, limits: Limits, spent: Usage, lent: Loan) -> Limits:
    """Return the limits of a child, the deadline as asked; raise `CannotLend` for what does not fit.

    `asked` holds 0 where the child takes its share, which is at least 1: who has nothing left lends nothing.
    """
    room = {
        Dimension.STEPS: (asked.max_steps, limits.max_steps - spent.steps - lent.steps - KEPT_STEPS),
        Dimension.TOOLS: (asked.max_tools, limits.max_tools - spent.tools - lent.tools),
        Dimension.TOKENS: (asked.max_tokens, limits.max_tokens - spent.tokens - lent.tokens),
    }
    given = {dimension: _given(dimension, *of) for dimension, of in room.items()}
    if asked.max_context > limits.max_context:
        raise CannotLend(Dimension.CONTEXT, limits.max_context)
    return Limits(
        deadline_ms=asked.deadline_ms,
        max_steps=given[Dimension.STEPS],
        max_tools=given[Dimension.TOOLS],
        max_tokens=given[Dimension.TOKENS],
        max_context=asked.max_context or limits.max_context,
    )


def _given(dimension: Dimension, asked: int, left: int) -> int:
    wanted = asked or max(1, left // SHARE)
    if wanted > left:
        raise CannotLend(dimension, max(0, left))
    return wanted
