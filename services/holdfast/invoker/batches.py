"""Makes, fills and starts batches, and says which specs pass the door: of people, and of schedules."""

from collections.abc import Sequence
from uuid import UUID

from holdfast.invoker.batch_policy import allow_policy, target_intents
from holdfast.invoker.batch_spec import read_items, read_spec, room_of
from holdfast.invoker.parts import Parts
from holdfast.ledger import batch as ledger_batch
from holdfast.ledger import batch_view
from holdfast.ledger.batch import Made
from holdfast.ledger.batch_target import check_destinations
from holdfast.ledger.batch_view import BatchView
from holdfast.v1 import batch_pb2


class Batches:
    """The batches of all tenants, as one Invoker makes them."""

    def __init__(self, parts: Parts) -> None:
        self._db = parts.db
        self._intents = parts.intents
        self._driver = parts.batches
        self._sources = parts.sources
        self._reader = parts.reader

    async def create(self, spec: batch_pb2.BatchSpec, *, tenant: str) -> Made:
        """Make a batch of a spec, or find that of its idempotency key.

        Raises `InvalidField`, `PermissionDenied`, `UnknownIntent`, `DestinationNotFound`,
        `IdempotencyKeyReused`, `TenantMismatch`.
        """
        new = read_spec(spec, tenant=tenant, sources=self._sources)
        await self.allow(spec, tenant)
        made = await ledger_batch.create(self._db, new)
        if new.sourced:
            self._reader.loop.wake()
        return made

    async def allow(self, spec: batch_pb2.BatchSpec, tenant: str) -> None:
        """Let a spec pass that the caller may send, and whose intents and destinations there are.

        Raises `PermissionDenied`, `UnknownIntent`, `DestinationNotFound`.
        """
        allow_policy(spec.review)
        for intent in (spec.invocation.intent, spec.review.reviewer_intent, *target_intents(spec.apply)):
            if intent:
                await self._intents.check(intent)
        effect = spec.apply.effect
        if effect.destination:
            async with self._db.connection() as connection:
                await check_destinations(connection, tenant, effect.destination, effect.undo_destination)

    async def get(self, tenant: str, batch_id: UUID) -> BatchView:
        """Read a batch. Raises `BatchNotFound`."""
        async with self._db.connection() as connection:
            return await batch_view.get(connection, tenant, batch_id)

    async def append(self, batch: BatchView, offset: int, items: Sequence[batch_pb2.BatchInput]) -> int:
        """Store items from an offset on; return where the next goes."""
        room = room_of(batch_pb2.BatchSpec.FromString(batch.spec))
        return await ledger_batch.append(
            self._db, batch.tenant, batch.batch_id, offset, read_items(list(items), room=room)
        )

    async def complete(self, batch: BatchView, count: int) -> BatchView:
        """Say that all items are here; a batch that starts then is started."""
        done = await ledger_batch.complete(self._db, batch.tenant, batch.batch_id, count)
        self._driver.loop.wake()
        return done

    async def start(self, tenant: str, batch_id: UUID) -> BatchView:
        """Start a batch whose items are all here."""
        started = await ledger_batch.start(self._db, tenant, batch_id)
        self._driver.loop.wake()
        return started
