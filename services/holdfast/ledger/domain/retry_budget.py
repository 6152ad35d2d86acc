"""What is sent again has a budget per destination, so that failures never multiply into a storm of calls.

However many effects fail and however many dispatchers send them: in any time `t` at most `rate * t` and a
burst are sent again. What is sent for the first time does not wait behind them. The arithmetic is the generic
cell rate algorithm (ITU-T I.371): one time says how far ahead the budget is used.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

_BURST = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """A destination's budget: `rate` retries a second, used up until `used_until`."""

    rate: float
    used_until: datetime

    @property
    def apart(self) -> timedelta:
        """How much of the budget's time one retry takes."""
        return timedelta(seconds=1 / self.rate)

    def left(self, now: datetime) -> int:
        """Say how many may be sent again at `now`; one at least after the budget has rested."""
        ahead = max(_BURST, self.apart)
        return max(0, (now + ahead - max(self.used_until, now)) // self.apart)

    def after(self, retries: int, now: datetime) -> datetime:
        """Return until when the budget is used after so many more."""
        return max(self.used_until, now) + retries * self.apart
