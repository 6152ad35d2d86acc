"""What becomes of an effect after a call: delivered, sent again later, or set aside.

PENDING ─▶ SENDING ─(acknowledged)─────────────────────────▶ DELIVERED
   ▲          ├────(may be sent again)──▶ PENDING
   │          └────(permanent | last attempt | uncertain)─▶ DEAD_LETTERED ─(a person)─▶ PENDING
   └──────────── DISCARDED: a person gave up a pending or dead-lettered one; final, as DELIVERED
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum

from holdfast.ledger.domain.backoff import full_jitter


class EffectStatus(IntEnum):
    """The numbers of `holdfast.v1.EffectStatus`."""

    PENDING = 1
    SENDING = 2
    DELIVERED = 3
    DEAD_LETTERED = 4
    DISCARDED = 5


class DeliveryMode(IntEnum):
    """The numbers of `holdfast.v1.DeliveryMode`."""

    AT_LEAST_ONCE = 1
    AT_MOST_ONCE = 2
    CONFIRM = 3


class Answer(Enum):
    """What is known after a call."""

    ACCEPTED = "accepted"
    """The destination has it."""
    NOT_TAKEN = "not taken"
    """It certainly does not have it, and may take it later: no connection, 429, 503."""
    UNCERTAIN = "uncertain"
    """It may have it: no answer, a broken connection, a failure of its own (5xx)."""
    REFUSED = "refused"
    """It has it and will never take it: 4xx, or an address that is not allowed."""
    NOT_SENT = "not sent"
    """No call was made; nothing is counted."""


class BreakerVote(Enum):
    """What a call says about the destination itself."""

    WORKS = "works"
    FAILS = "fails"
    ABSTAINS = "abstains"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often an effect is sent in all, and how long is waited between."""

    max_attempts: int = 12
    initial_backoff_s: float = 0.1
    max_backoff_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where the effect goes: `status`, and if it is PENDING again, after how long.

    `attempts` is how often it was sent by now, `spent` how many of these count against its limit.
    """

    status: EffectStatus
    attempts: int
    spent: int
    delay_s: float = 0.0


def decide(
    answer: Answer,
    *,
    attempts: int,
    spent: int,
    mode: DeliveryMode,
    policy: RetryPolicy,
    probe: bool = False,
    retry_after_s: float | None = None,
    random: Callable[[], float],
) -> Verdict:
    """Decide after a call of an effect that had been sent `attempts` times before.

    A failed probe of a breaker is not counted against the effect's limit: an outage, however long, sets no
    effect aside. `retry_after_s` is what the destination asked for; it lengthens the pause, up to an hour.
    """
    if answer is Answer.NOT_SENT:
        return Verdict(EffectStatus.PENDING, attempts, spent)
    attempts += 1
    if answer is Answer.ACCEPTED:
        return Verdict(EffectStatus.DELIVERED, attempts, spent + 1)
    if answer is Answer.REFUSED or (answer is Answer.UNCERTAIN and mode is DeliveryMode.AT_MOST_ONCE):
        return Verdict(EffectStatus.DEAD_LETTERED, attempts, spent + 1)
    if not probe:
        spent += 1
        if spent >= policy.max_attempts:
            return Verdict(EffectStatus.DEAD_LETTERED, attempts, spent)
    pause = full_jitter(max(1, spent), random, initial_s=policy.initial_backoff_s, cap_s=policy.max_backoff_s)
    return Verdict(EffectStatus.PENDING, attempts, spent, max(pause, min(retry_after_s or 0.0, 3600.0)))
