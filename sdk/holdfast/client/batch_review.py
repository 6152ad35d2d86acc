"""Judging what a batch has staged: samples to look at, verdicts, and what becomes of what was accepted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from holdfast.client.batch import Batch, BatchItem, BatchProgress
from holdfast.client.link import Link
from holdfast.client.wire_batch import batch_of, item_of, progress_of
from holdfast.client.wire_value import value_of
from holdfast.v1 import batch_pb2, batch_service_pb2_grpc
from holdfast.v1 import batch_service_pb2 as pb


class Verdict(IntEnum):
    """What becomes of an item's output."""

    UNJUDGED = 0
    ACCEPT = 1
    REJECT = 2


@dataclass(frozen=True, slots=True)
class Stratum:
    """One part of a sample: `population` staged items are like those in `items`, which were drawn."""

    label: str
    confidence_band: int
    population: int
    items: Sequence[BatchItem]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is said about one item; a rejection has a reason, and an acceptance may have another output."""

    index: int
    verdict: Verdict
    reason: str = ""
    edited: bool = False
    edited_output: Any = None


@dataclass(frozen=True, slots=True)
class Judged:
    """How a batch stands after a review."""

    progress: BatchProgress
    judged: int
    accepted: int
    policy_met: bool


class BatchReviews:
    """The calls that judge and apply what batches have staged: `client.batch_reviews`."""

    def __init__(self, stub: batch_service_pb2_grpc.BatchServiceStub, link: Link) -> None:
        self._stub = stub
        self._link = link

    async def sample(
        self,
        batch_id: str,
        *,
        size: int = 0,
        by_label: bool = False,
        confidence_bounds: Iterable[float] = (),
        equal: bool = False,
        seed: int = 0,
        unjudged_only: bool = True,
    ) -> Sequence[Stratum]:
        """Return staged items to look at; the same question over the same items draws the same.

        `confidence_bounds` divide items by how sure the agent is; `equal` draws as many of each part, where
        otherwise each gets its share. Raises `BatchNotFound`, `NotYetAvailable`.
        """
        strata = pb.Stratification(by_label=by_label, confidence_bounds=confidence_bounds, equal=equal)
        request = pb.SampleBatchRequest(
            batch_id=batch_id, size=size, strata=strata, seed=seed, unjudged_only=unjudged_only
        )
        response = await self._link.call(self._stub.SampleBatch, request)
        return [
            Stratum(each.label, each.confidence_band, each.population, [item_of(item) for item in each.items])
            for each in response.strata
        ]

    async def review(
        self,
        batch_id: str,
        judgements: Iterable[Judgement] = (),
        *,
        rest: Verdict = Verdict.UNJUDGED,
        rest_reason: str = "",
    ) -> Judged:
        """Say what becomes of items, and of all that nobody has judged; all of it is stored, or nothing.

        Raises `BatchNotFound`, `NotYetAvailable`.
        """
        request = pb.ReviewItemsRequest(
            batch_id=batch_id,
            reviews=[_review(each) for each in judgements],
            rest=batch_pb2.ReviewVerdict.ValueType(rest),
            rest_reason=rest_reason,
        )
        told = await self._link.call(self._stub.ReviewItems, request)
        return Judged(progress_of(told.progress), told.judged, told.accepted, told.policy_met)

    async def apply(
        self,
        batch_id: str,
        *,
        destination: str = "",
        undo_destination: str = "",
        intent: str = "",
        items_per_second: float = 0.0,
        dry_run: bool = False,
    ) -> tuple[Batch, int]:
        """Apply what was accepted: to a destination, by runs for an intent, or as the batch's spec says.

        Returns how many items are applied; a dry run only counts. Raises `BatchNotFound`,
        `DestinationNotFound`, `UnknownIntent`, `NotYetAvailable`.
        """
        request = pb.ApplyBatchRequest(batch_id=batch_id, items_per_second=items_per_second, dry_run=dry_run)
        if destination:
            effect = request.target.effect
            effect.destination, effect.undo_destination = destination, undo_destination
        elif intent:
            request.target.follow_up.intent = intent
        told = await self._link.call(self._stub.ApplyBatch, request)
        return batch_of(told.batch), told.item_count

    async def rollback(self, batch_id: str, reason: str, *, dry_run: bool = False) -> tuple[Batch, int]:
        """Undo what was applied, the newest first; returns how many items that is, a dry run only counts.

        Raises `BatchNotFound`, `NotYetAvailable`.
        """
        request = pb.RollbackBatchRequest(batch_id=batch_id, reason=reason, dry_run=dry_run)
        told = await self._link.call(self._stub.RollbackBatch, request)
        return batch_of(told.batch), told.item_count


def _review(judgement: Judgement) -> batch_pb2.ItemReview:
    message = batch_pb2.ItemReview(
        index=judgement.index,
        verdict=batch_pb2.ReviewVerdict.ValueType(judgement.verdict),
        reason=judgement.reason,
    )
    if judgement.edited:
        message.edited_output.CopyFrom(value_of(judgement.edited_output))
    return message
