"""How a sample is spread over strata: each its share or all alike, and none that has items goes unseen."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Strata:
    """What makes a stratum: the class of output, and bands between rising bounds; `equal` gives all alike."""

    by_label: bool = False
    confidence_bounds: tuple[float, ...] = ()
    token_bounds: tuple[int, ...] = ()
    equal: bool = False


def allot(populations: Sequence[int], size: int, *, equal: bool = False) -> list[int]:
    """Return how many are drawn of each stratum, in all `size` at most.

    By share: the largest remainders get what whole shares leave. Each stratum with items gets one if there
    are no more strata than `size`; if there are, the largest get one each. What a stratum does not have goes
    to the others.
    """
    total = sum(populations)
    if size >= total:
        return list(populations)
    living = sorted((at for at, n in enumerate(populations) if n), key=lambda at: (-populations[at], at))
    given = [0] * len(populations)
    for at in living[:size]:
        given[at] = 1
    left = size - sum(given)
    if equal:
        return _level(populations, given, left)
    shares = [size * n / total for n in populations]
    wanted = [max(0.0, share - have) for share, have in zip(shares, given, strict=True)]
    scale = left / sum(wanted) if sum(wanted) else 0.0
    exact = [want * scale for want in wanted]
    for at, value in enumerate(exact):
        given[at] += min(int(value), populations[at] - given[at])
    order = sorted(living, key=lambda at: (int(exact[at]) - exact[at], at))
    left = size - sum(given)
    while left:
        for at in order:
            if left and given[at] < populations[at]:
                given[at] += 1
                left -= 1
    return given


def _level(populations: Sequence[int], given: list[int], left: int) -> list[int]:
    while left:
        open_ = [at for at, n in enumerate(populations) if given[at] < n]
        each = max(1, left // len(open_))
        for at in open_:
            more = min(each, populations[at] - given[at], left)
            given[at] += more
            left -= more
    return given
