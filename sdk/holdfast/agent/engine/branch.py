"""Branches of an agent that go on at once, each a scope of its own, so that a replay tells them apart."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from holdfast.agent.engine.scope import Scope, here

T = TypeVar("T")
R = TypeVar("R")


async def in_branches(
    scope: Scope, name: str, fn: Callable[[T], Awaitable[R]], items: Iterable[T], *, at_once: int
) -> list[R]:
    """Call `fn` for each item, at most `at_once` at a time, and return the results in order.

    Item n is done in the scope `name.n`.

    The first failure cancels the others and is raised as it is.
    """
    waiting = list(enumerate(items))
    results: list[Any] = [None] * len(waiting)
    waiting.reverse()

    async def work() -> None:
        while waiting:
            place, item = waiting.pop()
            here.set(Scope(scope.owner, f"{name}.{place + 1}"))
            results[place] = await fn(item)

    workers = [scope.owner.spawn(work(), scope) for _ in range(min(at_once, len(waiting)))]
    try:
        # Each is awaited to its end, so that no branch outlives the map.
        for finished in asyncio.as_completed(workers) if len(workers) > 1 else workers:
            await finished
    finally:
        await _ended(workers)
    return results


def branch(scope: Scope, coroutine: Coroutine[Any, Any, R], name: str) -> "asyncio.Task[R]":
    """Start a coroutine as a task in a scope of its own."""
    return scope.owner.spawn(coroutine, scope.child(name))


async def _ended(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    left = [task for task in tasks if not task.done()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # the first failure is raised; the others are not asked for
