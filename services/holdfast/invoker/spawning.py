"""Children come in by a door of their own: what their parent lends is decided with their admission."""

from uuid import UUID

from holdfast.invoker.admission_trace import admission
from holdfast.invoker.envelope import Violations, check_parent
from holdfast.invoker.hints import Hints
from holdfast.invoker.intents import Intents
from holdfast.invoker.refusals import Refusals
from holdfast.kit.db import Database
from holdfast.kit.errors import ResourceExhausted
from holdfast.ledger.spawn import OnParentEnd, Parent, Spawned, spawn
from holdfast.ledger.values import Invocation
from holdfast.v1 import invoker_service_pb2, run_pb2


class Spawning:
    """Starts children of runs."""

    def __init__(self, db: Database, intents: Intents, hints: Hints, refusals: Refusals) -> None:
        self._db = db
        self._intents = intents
        self._hints = hints
        self._refusals = refusals

    async def spawn(self, child: Invocation, parent: Parent) -> Spawned:
        """Start a child, or find it; raises the Fault that refuses it. Repeatable as `ledger.spawn`."""
        with admission(child):
            await self._intents.check(child.intent)
            try:
                spawned = await spawn(self._db, child, parent)
            except ResourceExhausted as fault:
                self._refusals.note(child.tenant, fault)
                raise
        if spawned.admitted.created:
            self._hints.queued([spawned.admitted.pool])
        return spawned


def take_parent(request: invoker_service_pb2.InvokeRequest, wrong: Violations) -> Parent | None:
    """Take the parent out of an envelope, which is kept without; `wrong` gets what is wrong with it."""
    if not request.HasField("parent"):
        return None
    asked = request.parent
    found = None
    if check_parent(asked, wrong):
        goes_on = asked.on_parent_end == run_pb2.ON_PARENT_END_CONTINUE
        policy = OnParentEnd.CONTINUE if goes_on else OnParentEnd.CANCEL
        found = Parent(UUID(asked.run_id), asked.epoch, policy)
    for field in ("handoff", "not_before"):
        if request.HasField(field):
            wrong.add(field, "must be empty beside parent")
    if not request.idempotency_key:
        wrong.add("idempotency_key", "must be given beside parent: a repeated call must find the child")
    request.ClearField("parent")
    return found
