"""The outbox's calls, which the Dispatcher serves."""

from collections.abc import AsyncIterator, Iterable

from holdfast.client.effect import Destination, Effect
from holdfast.client.effect_acting import ActedOnEffects, EffectAction, act_on_effects
from holdfast.client.link import Link
from holdfast.client.number import EffectStatus
from holdfast.client.wire_effect import destination_message, destination_of, effect_of
from holdfast.v1 import effect_pb2, outbox_service_pb2, outbox_service_pb2_grpc


class Outbox:
    """Effects and their destinations: `client.outbox`."""

    def __init__(self, stub: outbox_service_pb2_grpc.OutboxServiceStub, link: Link) -> None:
        self._stub = stub
        self._link = link

    async def list_effects(
        self,
        *,
        statuses: Iterable[EffectStatus] = (),
        destination: str = "",
        run_id: str = "",
        page_size: int = 100,
    ) -> AsyncIterator[Effect]:
        """Yield the effects that match, newest first, without their bodies, page by page."""
        request = outbox_service_pb2.ListEffectsRequest(
            page_size=page_size,
            statuses=[effect_pb2.EffectStatus.ValueType(status) for status in statuses],
            destination=destination,
            run_id=run_id,
        )
        while True:
            page = await self._link.call(self._stub.ListEffects, request)
            for effect in page.effects:
                yield effect_of(effect)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get_effect(self, effect_id: str) -> Effect:
        """Return an effect with its body and history."""
        request = outbox_service_pb2.GetEffectRequest(effect_id=effect_id)
        return effect_of((await self._link.call(self._stub.GetEffect, request)).effect)

    async def retry_effect(self, effect_id: str) -> Effect:
        """Send a dead-lettered effect again. Not repeated: a second one would find it pending."""
        request = outbox_service_pb2.RetryEffectRequest(effect_id=effect_id)
        response = await self._link.call(self._stub.RetryEffect, request, repeatable=False)
        return effect_of(response.effect)

    async def discard_effect(self, effect_id: str, reason: str = "") -> Effect:
        """Give up an effect. Not repeated: a second one would find it discarded."""
        request = outbox_service_pb2.DiscardEffectRequest(effect_id=effect_id, reason=reason)
        response = await self._link.call(self._stub.DiscardEffect, request, repeatable=False)
        return effect_of(response.effect)

    def act_on_effects(
        self,
        action: EffectAction,
        *,
        apply: bool = False,
        statuses: Iterable[EffectStatus] = (),
        destination: str = "",
        run_id: str = "",
        reason: str = "",
        limit: int = 0,
        max_per_second: float = 0.0,
    ) -> AsyncIterator[ActedOnEffects]:
        """Do one thing with all effects that match, oldest first; yield how far it has come.

        Without `apply` nothing is done: the answers say which effects it would be. Without `statuses` it is
        those that are dead-lettered. `limit` is 1,000 if it is left at 0. Broken off, it may be called again.
        """
        request = outbox_service_pb2.ActOnEffectsRequest(
            which=outbox_service_pb2.ListEffectsRequest(
                statuses=[effect_pb2.EffectStatus.ValueType(status) for status in statuses],
                destination=destination,
                run_id=run_id,
            ),
            action=outbox_service_pb2.EffectAction.Value(f"EFFECT_ACTION_{action.upper()}"),
            apply=apply,
            reason=reason,
            limit=limit,
            max_per_second=max_per_second,
        )
        return act_on_effects(self._stub, self._link, request)

    async def list_destinations(self, *, page_size: int = 100) -> AsyncIterator[Destination]:
        """Yield the destinations by name, with their breakers, page by page."""
        request = outbox_service_pb2.ListDestinationsRequest(page_size=page_size)
        while True:
            page = await self._link.call(self._stub.ListDestinations, request)
            for destination in page.destinations:
                yield destination_of(destination)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def put_destination(self, destination: Destination) -> Destination:
        """Make a destination, or change it; returns it with defaults filled in."""
        request = outbox_service_pb2.PutDestinationRequest(destination=destination_message(destination))
        return destination_of((await self._link.call(self._stub.PutDestination, request)).destination)

    async def reset_breaker(self, destination: str) -> Destination:
        """Close a destination's breaker, so that it is called at once."""
        request = outbox_service_pb2.ResetBreakerRequest(destination=destination)
        return destination_of((await self._link.call(self._stub.ResetBreaker, request)).destination)
