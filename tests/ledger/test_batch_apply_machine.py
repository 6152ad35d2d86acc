"""Whatever people and dispatchers do with a staged batch, no item is applied twice and the counters hold."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.kit.db import Database
from holdfast.kit.errors import BatchNotReady, InvalidField
from holdfast.ledger import batch, batch_resend, batch_review, batch_target, batch_update
from holdfast.ledger.batch_review import Judgement, Rest
from holdfast.ledger.batch_view import BatchView, ItemFilter
from holdfast.ledger.domain.batch import BATCH_MOVES, ITEM_MOVES, BatchStatus, ItemStatus
from holdfast.ledger.domain.delivery import EffectStatus
from tests.support.batch import counts, seen
from tests.support.batch_apply import (
    CRM,
    UNDONE_BY_RUN,
    Dispatcher,
    Followers,
    check,
    effects,
    in_review,
    news,
    work,
)
from tests.support.ledger import Runner, fetch
from tests.support.outbox import make_destination, open_session

ITEMS = 6
INDEXES = st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=3, unique=True)
ACTS = st.one_of(
    st.sampled_from(["work", "work", "work", "news", "news", "both", "apply", "slow", "fast"]),
    st.sampled_from(["pause", "resume", "undo", "some", "again", "accept rest", "reject rest", "cancel"]),
    st.tuples(st.just("deliver"), st.integers(1, 4)),
    st.tuples(st.just("refuse"), st.integers(1, 2)),
    st.tuples(st.just("accept"), INDEXES),
    st.tuples(st.just("reject"), INDEXES),
)


class World:
    def __init__(self, dispatcher: Dispatcher | Followers, which: BatchView) -> None:
        self.dispatcher, self.db, self.which = dispatcher, dispatcher.db, which
        self.target = CRM if isinstance(dispatcher, Dispatcher) else UNDONE_BY_RUN
        self.items = dict.fromkeys(range(ITEMS), int(ItemStatus.STAGED))
        self.status = BatchStatus.IN_REVIEW

    async def act(self, act: Any) -> None:
        name, what = (act, 0) if isinstance(act, str) else act
        db = self.db
        match name:
            case "work":
                await work(db, self.which, window=2)
            case "news":
                await news(db)
            case "both":
                await asyncio.gather(work(db, self.which), work(db, self.which), news(db), news(db))
            case "deliver":
                await self.dispatcher.send(what)
            case "refuse":
                await self.dispatcher.send(what, EffectStatus.DEAD_LETTERED)
            case _:
                with suppress(BatchNotReady, InvalidField):
                    await self.verb(name, what)

    def verb(self, name: str, what: Any) -> Coroutine[Any, Any, Any]:
        about = (self.db, "acme", self.which.batch_id)
        verbs: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "accept": lambda: batch_review.review(
                *about, [Judgement(n, True, "", None, "ann") for n in what]
            ),
            "reject": lambda: batch_review.review(*about, [Judgement(n, False, "no") for n in what]),
            "accept rest": lambda: batch_review.review(*about, [], Rest(True)),
            "reject rest": lambda: batch_review.review(*about, [], Rest(False, "no")),
            "apply": lambda: batch_target.apply(*about, self.target),
            "again": lambda: batch_resend.apply_again(*about, ItemFilter()),
            "undo": lambda: batch_target.rollback(*about, "wrong", ItemFilter()),
            "some": lambda: batch_target.rollback(*about, "wrong", ItemFilter(label="retail")),
            "slow": lambda: batch_update.update(*about, apply_per_second=0.01),
            "fast": lambda: batch_update.update(*about, apply_per_second=0.0),
            "pause": lambda: batch.pause(*about, "why not"),
            "resume": lambda: batch.resume(*about),
            "cancel": lambda: batch.cancel(*about, ""),
        }
        return verbs[name]()

    async def check(self) -> None:
        assert sum((await counts(self.db, self.which)).values()) == ITEMS
        await check(self.db, self.which)
        rows = await fetch(
            self.db, "SELECT index, status FROM batch_item WHERE batch_id = $1", self.which.batch_id
        )
        for row in rows:
            was, now = ItemStatus(self.items[row["index"]]), ItemStatus(row["status"])
            assert was is now or _leads(was, now), f"{was.name} to {now.name}"
        self.items = {row["index"]: row["status"] for row in rows}
        after = (await seen(self.db, self.which)).status
        assert after is self.status or after in BATCH_MOVES[self.status], (
            f"{self.status.name} to {after.name}"
        )
        self.status = after
        keys = [each["idempotency_key"] for each in await effects(self.db, self.which)]
        assert len(keys) == len(set(keys))

    async def end(self) -> None:
        """Let whatever goes on come to its end."""
        await self.act("fast")
        await self.act("resume")
        await self.check()
        for _ in range(10 * ITEMS):
            await self.act(("deliver", 10))
            heard = await news(self.db)
            done = await work(self.db, self.which)
            if done.rests and not heard and not (await self.dispatcher.send()):
                break
        counted = await counts(self.db, self.which)
        assert "APPLYING" not in counted
        ended = (await seen(self.db, self.which)).status
        assert ended not in (BatchStatus.APPLYING, BatchStatus.ROLLING_BACK)


def _leads(was: ItemStatus, now: ItemStatus) -> bool:
    """Tell whether one or two moves lead there: two Invokers at once may make two."""
    return now in ITEM_MOVES[was] or any(now in ITEM_MOVES[between] for between in ITEM_MOVES[was])


async def live(db: Database, dispatcher: Dispatcher | Followers, acts: list[Any]) -> None:
    world = World(dispatcher, await in_review(db, ITEMS))
    for act in acts:
        await world.act(act)
        await world.check()
    await world.end()
    for act in (
        "accept rest",
        "work",
        "work",
        "apply",
        "work",
        ("deliver", 4),
        "news",
        "undo",
        "both",
        "work",
    ):
        await world.act(act)
        await world.check()
    await world.end()
    await check(db, world.which)


@pytest.mark.parametrize("by_run", [False, True])
async def test_no_life_of_a_staged_batch_applies_an_item_twice(db: Database, *, by_run: bool) -> None:
    for name in ("crm", "crm-undo"):
        await make_destination(db, name, tenant="acme", max_concurrent=100_000)
    runner = Runner(db)
    await runner.open(ttl_s=600)
    dispatcher = Followers(db, runner) if by_run else Dispatcher(db, await open_session(db))
    loop = asyncio.get_running_loop()

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(ACTS, max_size=25))
    def explore(acts: list[Any]) -> None:
        asyncio.run_coroutine_threadsafe(live(db, dispatcher, acts), loop).result(120)

    await asyncio.to_thread(explore)
