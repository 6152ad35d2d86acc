"""Events of one order are handed over one after another, so that none becomes a run before one that did not.

    a1 a2 b1 a3 c1  ──▶  [a1 b1 c1] ──▶ [a2] ──▶ [a3]

Runs of one order wait for each other anyway, so nothing is lost by it; events without an order go together.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from holdfast.edge.fault import NotNow
from holdfast.edge.intake import Broken, Fate, Letter


async def take_in_order(
    letters: Sequence[Letter],
    take: Callable[[Sequence[Letter]], Awaitable[list[Fate]]],
    is_over: Callable[[], bool],
) -> list[Fate]:
    """Hand events over; their fates, in order. None is handed over once it `is_over`, or one is not taken.

    Where the Invoker failed at an event, that event is to blame, and holds up none but those of its order.
    """
    fates: dict[int, Fate] = {}
    stopped: NotNow | None = None
    held: dict[str, NotNow] = {}
    for wave in _waves(letters):
        if stopped is None and is_over():
            stopped = NotNow("The reading ends.", after=0.0)
        for index in wave:
            before = stopped or held.get(letters[index].invocation.ordering_key)
            if before is not None:
                fates[index] = NotNow(str(before), after=before.after, pressed=before.pressed)
        going = [index for index in wave if index not in fates]
        if not going:
            continue
        for index, fate in zip(going, await take([letters[index] for index in going]), strict=True):
            fates[index] = fate
            if isinstance(fate, Broken):
                if order := letters[index].invocation.ordering_key:
                    held[order] = fate
            elif isinstance(fate, NotNow):
                stopped = fate
    return [fates[index] for index in range(len(letters))]


def _waves(letters: Sequence[Letter]) -> list[list[int]]:
    """Return who goes with whom: of each order one in a wave, all that have none in the first."""
    waves: list[list[int]] = []
    sent: Counter[str] = Counter()
    for index, letter in enumerate(letters):
        order = letter.invocation.ordering_key
        wave = sent[order] if order else 0
        sent[order] += 1
        if wave == len(waves) or not waves:
            waves.append([])
        waves[wave].append(index)
    return waves
