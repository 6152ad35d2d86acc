"""Samples, reviews, applying and rolling back, as the contract's messages ask for them."""

import json
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

from holdfast.invoker.batch_applier import BatchApplier
from holdfast.invoker.batch_message import (
    batch_message,
    item_message,
    progress_message,
    read_filter,
    tokens_costing,
)
from holdfast.invoker.batch_policy import check_rate, read_target, target_intents
from holdfast.invoker.envelope import Violations
from holdfast.invoker.intents import Intents
from holdfast.kit.db import Database
from holdfast.kit.rpc.payload import PayloadError, plain_value
from holdfast.ledger import batch_review, batch_sample, batch_target, batch_view
from holdfast.ledger.batch_review import Judgement, Rest
from holdfast.ledger.domain.batch_apply import DEFAULT_SAMPLE
from holdfast.ledger.domain.batch_sample import Strata
from holdfast.v1 import batch_pb2
from holdfast.v1 import batch_service_pb2 as pb

MOST_SAMPLED: Final = 1000
MOST_REVIEWS: Final = 1000
MOST_BANDS: Final = 20
MAX_REASON_BYTES: Final = 1000
MAX_ANSWER_BYTES: Final = 3 * 1024 * 1024
READ_AT_ONCE: Final = 50


class Reviewing:
    """What people do with the outputs of a batch, as one Invoker serves it."""

    def __init__(
        self, db: Database, intents: Intents, applier: BatchApplier, *, token_price: float = 0.0
    ) -> None:
        """Take what a million tokens cost."""
        self._db = db
        self._token_price = token_price
        self._intents = intents
        self._applier = applier

    async def sample(self, tenant: str, request: pb.SampleBatchRequest) -> pb.SampleBatchResponse:
        """Draw staged items; of more than fit a message the last of the largest strata are left out."""
        wrong = Violations()
        batch_id = wrong.run_id("batch_id", request.batch_id)
        if not 0 <= request.size <= MOST_SAMPLED:
            wrong.add("size", f"must be from 0 to {MOST_SAMPLED:,}")
        strata = _strata(wrong, request.strata, self._token_price)
        wrong.settle()
        assert batch_id is not None  # settle() raised otherwise
        async with self._db.connection() as connection:
            await batch_view.get(connection, tenant, batch_id)
            drawn = await batch_sample.draw(
                connection,
                batch_id,
                request.size or DEFAULT_SAMPLE,
                strata,
                seed=request.seed,
                unjudged_only=request.unjudged_only,
            )
        return _sample_message(drawn, await self._items(batch_id, drawn))

    async def _items(self, batch_id: UUID, drawn: list[batch_sample.Drawn]) -> dict[int, batch_pb2.BatchItem]:
        """Read what was drawn, the rarest strata first, as far as a message goes."""
        wanted = [index for stratum in reversed(drawn) for index in stratum.indexes]
        found: dict[int, batch_pb2.BatchItem] = {}
        room = MAX_ANSWER_BYTES
        for at in range(0, len(wanted), READ_AT_ONCE):
            async with self._db.connection() as connection:
                some = wanted[at : at + READ_AT_ONCE]
                views = {
                    view.index: view for view in await batch_view.these_items(connection, batch_id, some)
                }
            for index in some:
                item = item_message(str(batch_id), views[index], self._token_price)
                room -= item.ByteSize()
                if room < 0 and found:
                    return found
                found[index] = item
        return found

    async def review(
        self, tenant: str, request: pb.ReviewItemsRequest, reviewer: str
    ) -> pb.ReviewItemsResponse:
        """Store what is said, and carry out what is said about the rest."""
        wrong = Violations()
        batch_id = wrong.run_id("batch_id", request.batch_id)
        if len(request.reviews) > MOST_REVIEWS:
            wrong.add("reviews", f"must be at most {MOST_REVIEWS:,}")
        judgements = [
            _judgement(wrong, f"reviews[{at}]", each, reviewer) for at, each in enumerate(request.reviews)
        ]
        _refuse_twice(wrong, judgements)
        rest = _rest(wrong, request)
        wrong.settle()
        assert batch_id is not None  # settle() raised otherwise
        done = await batch_review.review(self._db, tenant, batch_id, judgements, rest, reviewer=reviewer)
        if rest is not None or done.policy_met:
            await self._applier.judge_rest(tenant, batch_id)
        async with self._db.connection() as connection:
            batch = await batch_view.get(connection, tenant, batch_id)
            progress = await batch_view.progress(connection, batch)
        return pb.ReviewItemsResponse(
            progress=progress_message(batch, progress, self._token_price),
            judged=done.judged,
            accepted=done.accepted,
            policy_met=done.policy_met,
        )

    async def apply(self, tenant: str, request: pb.ApplyBatchRequest) -> pb.ApplyBatchResponse:
        """Let accepted outputs be applied."""
        wrong = Violations()
        batch_id = wrong.run_id("batch_id", request.batch_id)
        check_rate(wrong, "items_per_second", request.items_per_second)
        target = None
        if request.HasField("target"):
            target = read_target(wrong, "target", request.target, tenant=tenant)
        wrong.settle()
        assert batch_id is not None  # settle() raised otherwise
        for intent in target_intents(request.target):
            await self._intents.check(intent)
        batch, count = await batch_target.apply(
            self._db,
            tenant,
            batch_id,
            target,
            per_second=request.items_per_second,
            dry_run=request.dry_run,
        )
        self._applier.loop.wake()
        return pb.ApplyBatchResponse(batch=batch_message(batch), item_count=count)

    async def roll_back(self, tenant: str, request: pb.RollbackBatchRequest) -> pb.RollbackBatchResponse:
        """Let what was applied be undone."""
        wrong = Violations()
        batch_id = wrong.run_id("batch_id", request.batch_id)
        if not request.reason:
            wrong.add("reason", "must be given")
        wrong.text("reason", request.reason, limit=MAX_REASON_BYTES)
        which = request.filter
        if which.statuses or which.failure_reason or which.changed:
            wrong.add("filter", "can name keys, a label and max_confidence of applied items")
        found = read_filter(wrong, which)
        assert batch_id is not None  # read_filter() raised otherwise
        batch, count = await batch_target.rollback(
            self._db, tenant, batch_id, request.reason, found, dry_run=request.dry_run
        )
        self._applier.loop.wake()
        return pb.RollbackBatchResponse(batch=batch_message(batch), item_count=count)


def _strata(wrong: Violations, asked: pb.Stratification, token_price: float) -> Strata:
    costs = asked.cost_bounds_micros
    if costs and not token_price:
        wrong.add("strata.cost_bounds_micros", "needs a price of tokens, and none is told: use token_bounds")
    if costs and asked.token_bounds:
        wrong.add("strata.cost_bounds_micros", "does not go together with token_bounds")
    for name in ("confidence_bounds", "cost_bounds_micros", "token_bounds"):
        bounds = list(getattr(asked, name))
        if len(bounds) > MOST_BANDS or any(not a < b for a, b in pairwise(bounds)):
            wrong.add(f"strata.{name}", f"must be at most {MOST_BANDS} bounds, rising")
    tokens = [tokens_costing(cost, token_price) for cost in costs] if token_price else ()
    return Strata(
        asked.by_label,
        tuple(asked.confidence_bounds),
        tuple(tokens or asked.token_bounds),
        equal=asked.equal,
    )


def _sample_message(
    drawn: list[batch_sample.Drawn], items: dict[int, batch_pb2.BatchItem]
) -> pb.SampleBatchResponse:
    return pb.SampleBatchResponse(
        strata=[
            pb.Stratum(
                label=stratum.label,
                confidence_band=stratum.confidence_band,
                cost_band=stratum.cost_band,
                population=stratum.population,
                items=[items[index] for index in stratum.indexes if index in items],
            )
            for stratum in drawn
        ]
    )


def _judgement(wrong: Violations, field: str, said: batch_pb2.ItemReview, reviewer: str) -> Judgement:
    accepted = said.verdict == batch_pb2.REVIEW_VERDICT_ACCEPT
    if said.verdict not in (batch_pb2.REVIEW_VERDICT_ACCEPT, batch_pb2.REVIEW_VERDICT_REJECT):
        wrong.add(f"{field}.verdict", "must be ACCEPT or REJECT")
    if said.verdict == batch_pb2.REVIEW_VERDICT_REJECT and not said.reason:
        wrong.add(f"{field}.reason", "must be given to reject")
    wrong.text(f"{field}.reason", said.reason, limit=MAX_REASON_BYTES)
    edited = None
    if said.HasField("edited_output"):
        if not accepted:
            wrong.add(f"{field}.edited_output", "must be empty unless the item is accepted")
        edited = _edited(wrong, f"{field}.edited_output", said.edited_output)
    return Judgement(said.index, accepted, said.reason, edited, reviewer)


def _edited(wrong: Violations, field: str, value: Any) -> bytes | None:
    try:
        plain = plain_value(value, field)
    except PayloadError as error:
        wrong.add(error.field, str(error))
        return None
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()


def _refuse_twice(wrong: Violations, judgements: list[Judgement]) -> None:
    seen: set[int] = set()
    for at, each in enumerate(judgements):
        if each.index in seen:
            wrong.add(f"reviews[{at}].index", "is judged twice")
        seen.add(each.index)


def _rest(wrong: Violations, request: pb.ReviewItemsRequest) -> Rest | None:
    wrong.text("rest_reason", request.rest_reason, limit=MAX_REASON_BYTES)
    if request.rest == batch_pb2.REVIEW_VERDICT_UNSPECIFIED:
        if request.rest_reason:
            wrong.add("rest_reason", "must be empty unless the rest is judged")
        return None
    if request.rest not in batch_pb2.ReviewVerdict.values():
        wrong.add("rest", "is not a verdict")
    accepted = request.rest == batch_pb2.REVIEW_VERDICT_ACCEPT
    if not accepted and not request.rest_reason:
        wrong.add("rest_reason", "must be given to reject")
    return Rest(accepted, request.rest_reason)
