"""What is spent of a budget, as one line: a bar for the limit that presses most, figures for all."""

from collections.abc import Mapping
from typing import Any, Final

_WIDTH: Final = 10
_LIMITS: Final = (
    ("steps", "max_steps"),
    ("tools", "max_tools"),
    ("tokens", "max_tokens"),
    ("context", "max_context"),
)


def budget_bar(usage: Mapping[str, Any], budget: Mapping[str, Any]) -> str:
    """Return the line; empty if no limit is known. Fields are those of the contract."""
    spent = [(name, int(usage.get(name) or 0), int(budget.get(limit) or 0)) for name, limit in _LIMITS]
    figures = [f"{name} {_short(used)}/{_short(most)}" for name, used, most in spent if most]
    elapsed, deadline = int(usage.get("elapsed_ms") or 0), int(budget.get("deadline_ms") or 0)
    if deadline:
        spent.append(("time", elapsed, deadline))
        figures.append(f"time {elapsed / 1000:.1f}/{deadline / 1000:g} s")
    shares = [(used / most, name) for name, used, most in spent if most]
    if not shares:
        return ""
    share, name = max(shares)
    full = min(_WIDTH, round(share * _WIDTH))
    bar = "▰" * full + "▱" * (_WIDTH - full)
    return f"{bar} {share:.0%} of {name}  ({', '.join(figures)})"


def _short(number: int) -> str:
    if number < 10_000:  # noqa: PLR2004 - four digits are read at a glance
        return str(number)
    if number < 1_000_000:  # noqa: PLR2004
        return f"{number / 1000:g}k" if number % 1000 == 0 else f"{number / 1000:.1f}k"
    return f"{number / 1_000_000:.3g}M"
