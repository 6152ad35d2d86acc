"""One thing done with many effects, and how far it has come."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

import grpc

from holdfast.client.link import Link
from holdfast.client.wire_status import error_of
from holdfast.v1 import outbox_service_pb2
from holdfast.v1.outbox_service_pb2_grpc import OutboxServiceStub

EffectAction = Literal["retry", "discard"]


@dataclass(frozen=True, slots=True)
class SkippedEffect:
    """An effect that was passed over: why, as errors have it."""

    effect_id: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ActedOnEffects:
    """How far it has come: counts of all so far, and the effects since the last answer."""

    matched: int
    done: int
    skipped: int
    effect_ids: tuple[str, ...]
    skipped_effects: tuple[SkippedEffect, ...]
    finished: bool


async def act_on_effects(
    stub: OutboxServiceStub, link: Link, request: outbox_service_pb2.ActOnEffectsRequest
) -> AsyncIterator[ActedOnEffects]:
    """Send it, and yield the answers. Raises `HoldfastError`."""
    call = stub.ActOnEffects(request, metadata=link.metadata)
    try:
        async for answer in call:
            yield ActedOnEffects(
                answer.matched,
                answer.done,
                answer.skipped,
                tuple(answer.effect_ids),
                tuple(
                    SkippedEffect(each.effect_id, each.reason, each.message)
                    for each in answer.skipped_effects
                ),
                answer.finished,
            )
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from error
    finally:
        call.cancel()
