"""Kills a run's runner before and after each of its commits, and compares the end with that of one unharmed.

What must be the same: status, result, reason of a failure, effects in the order of each ordering key, what
was said, each step's outcome, the session, the usage charged. No step with an outcome is executed again.
Of its children, whose runners live: which there are, and of each the status, result, effects and steps. One
that is cancelled by its parent's end ended where it stood then, and how far that was is nobody's promise.
"""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Unpack

from holdfast.agent.app import App
from holdfast.agent.engine.nursery import END
from holdfast.agent.testing.lab import perform
from holdfast.agent.testing.result import Taken
from holdfast.agent.testing.scene import Conditions, Kill, Scene
from holdfast.agent.testing.stage import Performance

PAIRS: Final = 64
"""How many pairs of kills are tried by default."""
_SHOWN: Final = 300
_OF_CHILDREN: Final = ("status", "result", "failure", "effects", "steps")

Apps = App | Callable[[], App]


def crash_everywhere(
    app: Apps,
    intent: str,
    payload: Mapping[str, Any] | None = None,
    *,
    pairs: int = PAIRS,
    **conditions: Unpack[Conditions],
) -> int:
    """Kill the runner at every commit, then at up to `pairs` pairs of them; return how many runs were killed.

    Raises AssertionError, naming the kill, the step and what differs. The agent must do the same each time it
    is run: one whose functions keep state is given as a function that makes its `app` anew.
    Conditions are those of `Lab.run`.
    """
    scene = Scene(intent, payload or {}, **conditions)

    def performed(kills: Sequence[Kill]) -> Performance:
        return perform(app if isinstance(app, App) else app(), scene, kills)

    unharmed = performed(())
    same_end(unharmed, unharmed)
    singles = []
    for commit in itertools.count(1):
        killed = [
            kill
            for kill in (Kill(commit), Kill(commit, landed=True))
            if _survives(performed, unharmed, [kill])
        ]
        if not killed:
            break
        singles += killed
    tried = len(singles)
    for pair in itertools.islice(_pairs(singles, pairs), pairs):
        tried += _survives(performed, unharmed, pair)
    return tried


async def crash_everywhere_async(
    app: Apps,
    intent: str,
    payload: Mapping[str, Any] | None = None,
    *,
    pairs: int = PAIRS,
    **conditions: Unpack[Conditions],
) -> int:
    """Do as `crash_everywhere` does, from async code: on loops of its own, in a thread."""

    def crash() -> int:
        return crash_everywhere(app, intent, payload, pairs=pairs, **conditions)

    return await asyncio.to_thread(crash)


def _pairs(singles: Sequence[Kill], most: int) -> Iterator[list[Kill]]:
    """Return pairs of kills in order; where they are too many, those spread evenly over all of them."""
    pairs = [
        [first, second]
        for first, second in itertools.product(singles, singles)
        if second.commit > first.commit or (second.commit == first.commit and not first.landed)
    ]
    stride = max(1, -(-len(pairs) // most)) if most > 0 else 1
    return iter(pairs[::stride])


def _survives(
    performed: Callable[[Sequence[Kill]], Performance], unharmed: Performance, kills: Sequence[Kill]
) -> bool:
    """Run it with kills, and compare the ends; false if the first kill found nothing to kill."""
    killed = performed(kills)
    if not killed.deaths:
        return False
    same_end(killed, unharmed)
    return True


def same_end(killed: Performance, unharmed: Performance) -> None:
    """Raise AssertionError where two runs differ."""
    deaths = " and ".join(f"{kill} (step {step})" if step else str(kill) for kill, step in killed.deaths)
    where = f"Killed {deaths}" if deaths else "Not killed at all"
    if killed.again:
        raise AssertionError(f"{where}: step {killed.again[0]} was executed again after it was recorded.")
    for fact, expected, found in _compared(unharmed, killed):
        if found != expected:
            raise AssertionError(f"{where}: {_difference(fact, expected, found)}")


def _compared(
    unharmed: Performance, killed: Performance, facts: Sequence[str] = ()
) -> Iterator[tuple[str, Any, Any]]:
    """Return what must be the same: the name that a report gives it, as it was, and as it is now."""
    ordered = not (killed.branched or unharmed.branched)
    was, now = _facts(unharmed, ordered=ordered), _facts(killed, ordered=ordered)
    yield from ((fact, was[fact], now[fact]) for fact in facts or was)
    before, after = _children(unharmed), _children(killed)
    yield "children", sorted(before), sorted(after)
    for name, one in before.items():
        other = after.get(name, one)  # that it is missing has been said
        if not (one.orphaned or other.orphaned):
            for fact, expected, found in _compared(one, other, _OF_CHILDREN):
                yield f"{fact} of {name}", expected, found


def _children(performance: Performance) -> dict[str, Performance]:
    """Return the children by names that people and two runs of a lab can tell apart."""
    return {f"{each.result.intent} ({each.result.run_id})": each for each in performance.children}


def _facts(performance: Performance, *, ordered: bool) -> dict[str, Any]:
    """Return what must be the same of a run itself, by the name that a report gives it."""
    result, usage = performance.result, performance.own
    lanes: dict[str, list[Any]] = {}
    for effect in result.effects:
        lane = f"effects to {effect.destination}"
        if effect.ordering_key:
            lane += f" under the ordering key {effect.ordering_key}"
        lanes.setdefault(lane, []).append((effect.key, _json(effect.payload), bool(effect.ordering_key)))
    steps = {
        step.key: (step.kind, _json(_heard(step)), step.failure, step.interrupted) for step in result.steps
    }
    return {
        "status": result.status,
        "result": _json(result.value),
        "failure": "" if result.failure is None else result.failure.reason,
        "effects": {
            lane: [each[:2] for each in effects] if effects[0][2] or ordered else sorted(effects)
            for lane, effects in lanes.items()
        },
        "steps": steps,
        "what was said": result.said if ordered else dict(Counter(result.said)),
        "session": _json(result.session),
        "usage": {
            "steps": usage.steps,
            "tools": usage.tools,
            "tokens": usage.tokens,
            "context": usage.context,
        },
    }


def _heard(step: Taken) -> Any:
    """Return what a step returned, but for what came back of a loan: another child may have ended before."""
    if step.key.endswith(END) and isinstance(step.output, dict):
        return {**step.output, "payload": {**step.output["payload"], "returned": None}}
    return step.output


def _difference(fact: str, expected: Any, found: Any) -> str:
    """Say in one line what differs."""
    if isinstance(expected, dict):
        for part in [*expected, *found]:
            was, now = expected.get(part), found.get(part)
            if was != now:
                return f"{fact} differ at {part}: {_shown(was)} unharmed, {_shown(now)} now."
    return f"{fact} differs: {_shown(expected)} unharmed, {_shown(found)} now."


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
