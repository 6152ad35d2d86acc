"""Makes, fills and starts batches; people come through `BatchService`, schedules straight here."""

from collections.abc import Sequence
from uuid import UUID

from holdfast.invoker.batch_driver import BatchDriver
from holdfast.invoker.batch_policy import allow_policy, follow_up_intent
from holdfast.invoker.batch_spec import read_items, read_spec, room_of
from holdfast.invoker.intents import Intents
from holdfast.kit.db import Database
from holdfast.ledger import batch as ledger_batch
from holdfast.ledger import batch_view
from holdfast.ledger.batch import Made
from holdfast.ledger.batch_target import check_destinations
from holdfast.ledger.batch_view import BatchView
from holdfast.v1 import batch_pb2


class Batches:
    """The batches of all tenants, as one Invoker makes them."""

    def __init__(self, db: Database, intents: Intents, driver: BatchDriver) -> None:
        self._db = db
        self._intents = intents
        self._driver = driver

    async def create(self, spec: batch_pb2.BatchSpec, *, tenant: str, schedule: str = "") -> Made:
        """Make a batch of a spec, or find that of its idempotency key.

        Raises `InvalidField`, `PermissionDenied`, `UnknownIntent`, `DestinationNotFound`,
        `IdempotencyKeyReused`, `TenantMismatch`.
        """
        new = read_spec(spec, tenant=tenant, schedule=schedule)
        allow_policy(spec.review)
        for intent in (new.intent, new.reviewer_intent, follow_up_intent(spec.apply)):
            if intent:
                await self._intents.check(intent)
        if new.apply_destination:
            async with self._db.connection() as connection:
                await check_destinations(connection, tenant, new.apply_destination, new.undo_destination)
        return await ledger_batch.create(self._db, new)

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
