"""The outbox as people and programs see it; a call sees its tenant's own effects and destinations only."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final

from holdfast.dispatcher.acting import LONGEST_REASON, act
from holdfast.dispatcher.address import AddressPolicy, AddressRefusedError
from holdfast.dispatcher.filter import filter_of
from holdfast.dispatcher.put import destination_from
from holdfast.dispatcher.request import KEY
from holdfast.dispatcher.scheme import checked_as
from holdfast.dispatcher.view import destination_message, effect_message
from holdfast.kit.db import Database
from holdfast.kit.errors import DestinationRefused
from holdfast.kit.rpc.page import cursor_of, size_of, token_of
from holdfast.kit.rpc.tenant import current_tenant
from holdfast.kit.rpc.violation import Violations
from holdfast.ledger import destination, outbox_inspect, outbox_person
from holdfast.v1 import outbox_service_pb2 as pb
from holdfast.v1.outbox_service_pb2_grpc import OutboxServiceServicer as Contract

_MOST_SEQ: Final = 2**63


class OutboxServicer(Contract):
    """Serves OutboxService; `wake` tells the dispatching of this process that there is something to send."""

    def __init__(self, db: Database, policy: AddressPolicy, wake: Callable[[], None]) -> None:
        self._db = db
        self._policy = policy
        self._wake = wake

    async def ListEffects(self, request: pb.ListEffectsRequest, context: Any) -> pb.ListEffectsResponse:  # noqa: ARG002, N802
        """Read a page of effects, newest first."""
        violations = Violations()
        size = size_of(violations, request.page_size)
        cursor = cursor_of(violations, "effects", request.page_token)
        if cursor and not (cursor.isascii() and cursor.isdigit() and 0 < int(cursor) < _MOST_SEQ):
            violations.add("page_token", "must be the next_page_token of a page before")
        wanted = filter_of(violations, request)
        violations.check()
        async with self._db.connection() as connection:
            effects = await outbox_inspect.page(
                connection,
                current_tenant(),
                wanted,
                before_seq=int(cursor) if cursor else None,
                limit=size + 1,
            )
        more = len(effects) > size
        return pb.ListEffectsResponse(
            effects=[effect_message(effect) for effect in effects[:size]],
            next_page_token=token_of("effects", str(effects[size - 1].seq)) if more else "",
        )

    async def GetEffect(self, request: pb.GetEffectRequest, context: Any) -> pb.GetEffectResponse:  # noqa: ARG002, N802
        """Read an effect with body and history."""
        violations = Violations()
        effect_id = violations.uuid("effect_id", request.effect_id)
        violations.check()
        async with self._db.connection() as connection:
            effect = await outbox_inspect.get(connection, current_tenant(), effect_id)
        return pb.GetEffectResponse(effect=effect_message(effect))

    async def RetryEffect(self, request: pb.RetryEffectRequest, context: Any) -> pb.RetryEffectResponse:  # noqa: ARG002, N802
        """Send a dead-lettered effect again."""
        violations = Violations()
        effect_id = violations.uuid("effect_id", request.effect_id)
        violations.check()
        effect = await outbox_person.retry(self._db, current_tenant(), effect_id)
        self._wake()
        return pb.RetryEffectResponse(effect=effect_message(effect))

    async def DiscardEffect(self, request: pb.DiscardEffectRequest, context: Any) -> pb.DiscardEffectResponse:  # noqa: ARG002, N802
        """Give up an effect that is not being sent."""
        violations = Violations()
        effect_id = violations.uuid("effect_id", request.effect_id)
        violations.text("reason", request.reason, longest=LONGEST_REASON, required=False)
        violations.check()
        effect = await outbox_person.discard(self._db, current_tenant(), effect_id, request.reason)
        self._wake()
        return pb.DiscardEffectResponse(effect=effect_message(effect))

    async def ActOnEffects(  # noqa: N802
        self,
        request: pb.ActOnEffectsRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[pb.ActOnEffectsResponse]:
        """Do one thing with all effects that match."""
        async with aclosing(act(self._db, current_tenant(), request, self._wake)) as answers:
            async for answer in answers:
                yield answer

    async def PutDestination(  # noqa: N802
        self,
        request: pb.PutDestinationRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.PutDestinationResponse:
        """Make or change a destination, if the operator allows its address."""
        wanted = destination_from(current_tenant(), request.destination)
        try:
            for url in filter(None, (wanted.url, wanted.status_url.replace(KEY, "key"))):
                await self._policy.check(checked_as(url))
        except AddressRefusedError as refusal:
            raise DestinationRefused(str(refusal), facts={"destination": wanted.name}) from refusal
        async with self._db.transaction() as connection:
            view = await destination.put(connection, wanted)
        self._wake()
        return pb.PutDestinationResponse(destination=destination_message(view))

    async def ListDestinations(  # noqa: N802
        self,
        request: pb.ListDestinationsRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.ListDestinationsResponse:
        """Read a page of destinations, by name."""
        violations = Violations()
        size = size_of(violations, request.page_size)
        after = cursor_of(violations, "destinations", request.page_token)
        violations.check()
        async with self._db.connection() as connection:
            views = await destination.page(connection, current_tenant(), after, size + 1)
        more = len(views) > size
        return pb.ListDestinationsResponse(
            destinations=[destination_message(view) for view in views[:size]],
            next_page_token=token_of("destinations", views[size - 1].destination.name) if more else "",
        )

    async def ResetBreaker(self, request: pb.ResetBreakerRequest, context: Any) -> pb.ResetBreakerResponse:  # noqa: ARG002, N802
        """Close a destination's breaker."""
        violations = Violations()
        name = violations.text("destination", request.destination)
        violations.check()
        async with self._db.transaction() as connection:
            view = await destination.reset_breaker(connection, current_tenant(), name)
        self._wake()
        return pb.ResetBreakerResponse(destination=destination_message(view))
