"""Waits between tries: exponential with full jitter, capped (Brooker, "Exponential Backoff", 2015)."""

import random

FIRST = 0.1  # seconds
LONGEST = 30.0


def pause(failures: int) -> float:
    """Return how long to wait, in seconds, after so many failures in a row."""
    ceiling: float = min(LONGEST, FIRST * 2.0 ** min(max(failures - 1, 0), 16))
    return random.uniform(0.0, ceiling)  # noqa: S311 -- spreads load, keeps no secret
