"""How fast a batch goes, and when its present phase may end: from a ring of slots of five seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

SLOT_S: Final = 5
SLOTS: Final = 12
"""Slots of the last minute."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What ended in five seconds; `at` is their number since 1970."""

    at: int
    ended: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Pace:
    """Items and tokens a second; `shortest` and `longest` until the rest has ended, in seconds, if known."""

    items_per_second: float = 0.0
    tokens_per_second: float = 0.0
    shortest: float | None = None
    longest: float | None = None


def pace_of(slots: Sequence[Slot], *, now: float, since: float | None, left: int) -> Pace:
    """Return the pace of the last minute, or of the time `since` the start if that is shorter.

    The range is that of nine cases of ten if slots vary as they have: 1.64 standard errors of their mean.
    """
    present = int(now // SLOT_S)
    first = present - SLOTS
    recent = {slot.at: slot for slot in slots if first < slot.at <= present}
    begun = max(first * SLOT_S + SLOT_S, since if since is not None else 0.0)
    seconds = max(1.0, now - begun)
    ended = sum(slot.ended for slot in recent.values())
    rate = ended / seconds
    tokens = sum(slot.tokens for slot in recent.values()) / seconds
    if not ended or not left:
        return Pace(rate, tokens)
    whole = range(int(begun // SLOT_S) + 1, present)
    rates = [(recent[at].ended if at in recent else 0) / SLOT_S for at in whole]
    error = rate / sqrt(ended)
    if len(rates) > 1:
        mean = sum(rates) / len(rates)
        variance = sum((each - mean) ** 2 for each in rates) / (len(rates) - 1)
        error = max(error, sqrt(variance / len(rates)))
    fast, slow = rate + 1.64 * error, max(rate - 1.64 * error, rate / 10)
    return Pace(rate, tokens, left / fast, left / slow)
