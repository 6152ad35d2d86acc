"""How long to wait before another try: exponential with full jitter, capped.

The formula is "full jitter": uniform between nothing and the doubled, capped pause, so that many who failed
together do not come back together.
"""

from collections.abc import Callable

INITIAL_S = 0.1
CAP_S = 30.0


def full_jitter(
    failures: int, random: Callable[[], float], *, initial_s: float = INITIAL_S, cap_s: float = CAP_S
) -> float:
    """Return seconds to wait after the n-th failure in a row (from 1); `random` is uniform in [0, 1)."""
    if failures < 1:
        raise ValueError(f"A pause follows a failure; {failures} is none.")
    doubled: float = initial_s * 2.0 ** min(failures - 1, 60)
    return random() * min(cap_s, doubled)
