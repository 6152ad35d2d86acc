"""What is to be done next for a batch whose items have ended: judge, apply, undo, finish.

Decided from counters alone, under the lock of the batch's tenant, so any number of Invokers decide alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from holdfast.ledger.domain.batch import BatchStatus, ItemStatus

APPLY_CHUNK: Final = 500
"""Items that are applied, or undone, in one transaction."""
JUDGE_CHUNK: Final = 2000
"""Items that are judged in one transaction, of those nobody has looked at."""
WINDOW: Final = 5000
"""Items whose effects may be on their way at one time: a pause stops the rest, and other effects of the
destination wait for no more."""
FOLLOW_UPS: Final = 250
"""The same for runs: they are work for agents."""
ASK_CHUNK: Final = 50
"""Items that a reviewing agent is given in one transaction: each may be some megabytes."""
DEFAULT_SAMPLE: Final = 200

JUDGED_IN: Final = frozenset(
    {
        BatchStatus.RUNNING,
        BatchStatus.PAUSED,
        BatchStatus.IN_REVIEW,
        BatchStatus.APPLYING,
        BatchStatus.APPLIED,
    }
)
"""Where a batch's items may be judged."""
JUDGEABLE: Final = frozenset({ItemStatus.STAGED, ItemStatus.ACCEPTED, ItemStatus.REJECTED})
"""Where an item stands until it is being applied."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When the items nobody has judged are accepted; a share of 0 is never."""

    min_share: float = 0.0
    min_judged: int = 0

    def met(self, judged: int, accepted: int) -> bool:
        """Tell whether so many were judged and accepted that the rest is accepted too."""
        enough = judged >= max(1, self.min_judged)
        return self.min_share > 0 and enough and accepted >= self.min_share * judged - 1e-9


@dataclass(frozen=True, slots=True)
class Work:
    """A batch after its items have ended, as it is under its tenant's lock.

    `allowed` is how many may be applied now, None for no limit, and `allowed_in_s` in how many seconds the
    next may; `to_ask` how many of the drawn sample nobody was asked about yet; `undoing` how many undos are
    on their way.
    """

    status: BatchStatus
    counts: Mapping[ItemStatus, int] = field(default_factory=dict)
    judging: bool = False
    policy: Policy = field(default_factory=Policy)
    judged: int = 0
    accepted: int = 0
    met: bool = False
    asks_agent: bool = False
    drawn: bool = False
    to_ask: int = 0
    applies_when_met: bool = False
    window: int = WINDOW
    allowed: int | None = None
    allowed_in_s: float = 0.0
    undoing: int = 0

    def count(self, status: ItemStatus) -> int:
        """Return how many items stand there."""
        return self.counts.get(status, 0)


@dataclass(frozen=True, slots=True)
class JudgeRest:
    """Judge a chunk of those nobody has looked at."""


@dataclass(frozen=True, slots=True)
class RestJudged:
    """All are judged."""


@dataclass(frozen=True, slots=True)
class Meet:
    """The policy is met: the rest is accepted."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Draw the sample that a reviewing agent judges."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the reviewing agent about so many more of its sample."""

    items: int


@dataclass(frozen=True, slots=True)
class Begin:
    """Begin to apply, as the policy says."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply so many."""

    items: int


@dataclass(frozen=True, slots=True)
class Undo:
    """Undo at most so many; with none left and nothing on its way the batch is rolled back."""

    items: int


@dataclass(frozen=True, slots=True)
class Applied:
    """Every accepted item was applied or has failed to."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing now; `done` if nothing will be until someone asks or news comes, else perhaps in `seconds`."""

    done: bool = False
    seconds: float | None = None


Next = JudgeRest | RestJudged | Meet | Draw | Ask | Begin | Apply | Undo | Applied | Wait


def next_work(work: Work) -> Next:
    """Say what is to be done next."""
    if work.judging and work.status in JUDGED_IN:
        return JudgeRest() if work.count(ItemStatus.STAGED) else RestJudged()
    match work.status:
        case BatchStatus.IN_REVIEW:
            return _in_review(work)
        case BatchStatus.APPLYING:
            return _applying(work)
        case BatchStatus.ROLLING_BACK:
            room = min(APPLY_CHUNK, work.window - work.undoing)
            return Undo(room) if room > 0 else Wait()
    return Wait(done=True)


def allowance(per_second: float, waited_s: float) -> int | None:
    """Return how many may be applied now if the last was paid for `waited_s` ago; None without a limit.

    What was not used is saved up for a second, and for at least one item.
    """
    if not per_second:
        return None
    return int(min(waited_s * per_second, saved(per_second)) + 1e-6)


def allowed_in(per_second: float, waited_s: float) -> float:
    """Return in how many seconds one may be applied."""
    return max(0.0, 1 / per_second - waited_s) if per_second else 0.0


def saved(per_second: float) -> float:
    """Return how many items the limit saves up at most."""
    return max(1.0, per_second)


def _in_review(work: Work) -> Next:
    if not work.met and work.policy.met(work.judged, work.accepted):
        return Meet()
    if work.met and work.applies_when_met:
        return Begin()
    if work.asks_agent and not work.drawn and work.count(ItemStatus.STAGED):
        return Draw()
    if work.asks_agent and work.to_ask:
        return Ask(min(work.to_ask, ASK_CHUNK))
    return Wait(done=True)


def _applying(work: Work) -> Next:
    accepted, flying = work.count(ItemStatus.ACCEPTED), work.count(ItemStatus.APPLYING)
    if not accepted and not flying:
        return Applied()
    room = min(accepted, work.window - flying, APPLY_CHUNK)
    if room > 0 and work.allowed == 0:
        return Wait(seconds=work.allowed_in_s)
    if work.allowed is not None:
        room = min(room, work.allowed)
    return Apply(room) if room > 0 else Wait()
