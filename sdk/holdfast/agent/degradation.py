"""What an agent does as its budget runs low: rungs taken one by one, each once, each told with its reason.

The pressure is the largest share spent of any limit. A rung changes how later model calls are made and
whether optional steps are executed; what was recorded before stays as it was, so a replay needs no memory of
the pressure then: only how many rungs have been told is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.agent.budget import Budget, Dimension


@dataclass(frozen=True, slots=True)
class Rung:
    """From the share `at` of any limit on: ask the model `use`, read less context, skip what is optional.

    `context` is the share of `max_context` that a model call may read from then on. Raises ValueError for
    shares outside of 0 to 1, and for a rung that does nothing.
    """

    at: float
    use: str | None = None
    context: float | None = None
    skip_optional: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.at < 1:
            raise ValueError(f"A rung is taken at a share between 0 and 1, not at {self.at}.")
        if self.context is not None and not 0 < self.context <= 1:
            raise ValueError(f"The share of the context is above 0 and at most 1, not {self.context}.")
        if self.use is None and self.context is None and not self.skip_optional:
            raise ValueError(
                "A rung must do something: use a model, read less context, or skip what is optional."
            )

    def __str__(self) -> str:
        parts = []
        if self.use is not None:
            parts.append(f"asks {self.use}")
        if self.context is not None:
            parts.append(f"reads {self.context:.0%} of the context")
        if self.skip_optional:
            parts.append("skips optional steps")
        return ", ".join(parts)


_PRESSES: Final = (Dimension.DEADLINE, Dimension.STEPS, Dimension.TOOLS, Dimension.TOKENS)


@dataclass(frozen=True, slots=True)
class Pressure:
    """The limit that presses most."""

    dimension: Dimension
    used: int
    limit: int

    @property
    def share(self) -> float:
        """How much of it is spent, from 0 on."""
        return _share(self.used, self.limit)


def shares_of(budget: Budget) -> tuple[float, ...]:
    """Return how much of each limit is spent, from 0 on: deadline, steps, tools, tokens."""
    return tuple(_share(used, limit) for used, limit in _spent(budget))


def pressure(budget: Budget) -> Pressure:
    """Return what presses most; the deadline in milliseconds."""
    felt = (Pressure(dimension, *each) for dimension, each in zip(_PRESSES, _spent(budget), strict=True))
    return max(felt, key=lambda each: each.share)


def _spent(budget: Budget) -> tuple[tuple[int, int], ...]:
    """Return what is used and the limit, in the order of `_PRESSES`."""
    spent, limits = budget.spent, budget.limits
    return (
        (int(budget.elapsed * 1000), int(limits.deadline * 1000)),
        (spent.steps, limits.steps),
        (spent.tools, limits.tools),
        (spent.tokens, limits.tokens),
    )


def _share(used: int, limit: int) -> float:
    return used / limit if limit else 0.0


class Degradation:
    """The rungs of one run: which are taken, and what that means for what comes."""

    __slots__ = ("_rungs", "context", "skips_optional", "taken", "use")

    def __init__(self, rungs: Sequence[Rung], told: int) -> None:
        self._rungs = sorted(rungs, key=lambda rung: rung.at)
        self.taken = 0
        self.use: str | None = None
        """The model to ask, if a rung has said so."""
        self.context = 1.0
        """The share of the context that may be read."""
        self.skips_optional = False
        for rung in self._rungs[:told]:
            self._take(rung)

    @property
    def has_more(self) -> bool:
        """Whether a rung is left to be taken."""
        return self.taken < len(self._rungs)

    def due(self, felt: Pressure) -> list[Rung]:
        """Take the rungs that the pressure asks for, and return them in order."""
        due = [rung for rung in self._rungs[self.taken :] if felt.share >= rung.at]
        for rung in due:
            self._take(rung)
        return due

    def _take(self, rung: Rung) -> None:
        self.taken += 1
        self.use = rung.use or self.use
        self.context = self.context if rung.context is None else rung.context
        self.skips_optional = self.skips_optional or rung.skip_optional
