"""What one round does about one schedule, decided in Python on what stands under the schedule's lock."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from holdfast.ledger.domain.schedule import (
    PUNCTUAL,
    Origin,
    Overlap,
    Result,
    Step,
    look_again,
    made_up_for,
    missed,
    overlapping,
)
from holdfast.ledger.schedule_row import Schedule
from holdfast.ledger.timing import due_time, next_time

MOST_MADE_UP: Final = 1000
"""Missed times of one schedule that are made up for; further ones are left out."""
_BEHIND: Final = "It waits until the one before has ended."


@dataclass(frozen=True, slots=True)
class Waiting:
    """A time that waits until what its schedule started last has ended; `seq` is set once it is stored."""

    time: datetime
    origin: Origin
    rank: int
    trigger_key: str = ""
    seq: int | None = None
    since: datetime | None = None


@dataclass(slots=True)
class Plan:
    """What one round does about one schedule."""

    schedule: Schedule
    busy: bool
    waiting: bool
    head: Waiting | None
    next_time: datetime | None
    due_time: datetime | None
    start: Waiting | None = None
    cancels: bool = False
    run_id: UUID | None = None
    batch_id: UUID | None = None
    left: list[tuple[Waiting, Result, str]] = field(default_factory=list)
    behind: list[Waiting] = field(default_factory=list)

    def again(self, now: datetime) -> timedelta:
        """Return when to look again at what waits."""
        since = self.head.since if self.head is not None and self.start is not self.head else None
        again = look_again(now - since if since is not None else timedelta())
        # Before the next time, which goes first: what waits behind a quick rule must have its chance.
        return again if self.due_time is None else min(again, max((self.due_time - now) / 2, timedelta()))


def plan_due(plan: Plan, now: datetime) -> None:
    """Decide about every time that is due, the oldest first."""
    one = plan.schedule
    while plan.next_time is not None and plan.due_time is not None and plan.due_time <= now:
        time, due = plan.next_time, plan.due_time
        after = time
        if not missed(due, now):
            here = Waiting(time, Origin.DUE, 0)
            if not decide(plan, here, one.wanted.overlap):
                return
        elif made_up_for(due, now, one.wanted.catch_up) and len(plan.behind) < MOST_MADE_UP:
            _make_up(plan, Waiting(time, Origin.CATCH_UP, 1))
        else:
            # Further times as late as this need not be gone through one by one.
            full = len(plan.behind) >= MOST_MADE_UP
            window = PUNCTUAL if full else max(one.wanted.catch_up, PUNCTUAL)
            after = max(time, now - window - one.timing.jitter)
            sentence = "Missed while nothing was there, as may be others until the next one listed."
            plan.left.append((Waiting(time, Origin.DUE, 0), Result.SKIPPED_MISSED, sentence))
        plan.next_time = next_time(one.timing, after)
        plan.due_time = plan.next_time and due_time(one.schedule_id, one.timing, plan.next_time)


def _make_up(plan: Plan, here: Waiting) -> None:
    if plan.busy or plan.start is not None or plan.head is not None:
        plan.behind.append(here)
        plan.left.append((here, Result.QUEUED, _BEHIND))
    else:
        plan.start = here


def decide(plan: Plan, here: Waiting, policy: Overlap) -> bool:
    """Plan one time as the policy says; False if this round can do no more for the schedule."""
    busy = plan.busy or plan.start is not None
    step = overlapping(policy, busy=busy, waiting=plan.waiting)
    if step is Step.WAIT:
        plan.waiting = True
        plan.behind.append(here)
        plan.left.append((here, Result.QUEUED, _BEHIND))
    elif step is Step.SKIP:
        why = "One waits already." if policy is Overlap.QUEUE else "The one before has not ended."
        plan.left.append((here, Result.SKIPPED_OVERLAP, why))
    elif plan.start is not None:
        return False  # what starts in this round can be cancelled in the next
    else:
        plan.start = here
        plan.cancels = step is Step.CANCEL_AND_START
    return True


def key_of(schedule: Schedule, here: Waiting) -> str:
    """Return the idempotency key of what a time starts: made of the schedule and the time, or the trigger."""
    if here.origin is Origin.TRIGGER:
        return f"schedule/{schedule.schedule_id}/trigger/{here.trigger_key}"
    return time_key(schedule.schedule_id, here.time)


def time_key(schedule_id: UUID, time: datetime) -> str:
    """Return the idempotency key of what a time of the rule starts."""
    return f"schedule/{schedule_id}/{time.astimezone(UTC).isoformat()}"
