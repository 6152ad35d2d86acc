"""Sessions: what the runs of one conversation hand on to each other."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from holdfast.client.link import Link
from holdfast.client.wire_value import plain_value, time_of
from holdfast.v1 import invoker_service_pb2, invoker_service_pb2_grpc


@dataclass(frozen=True, slots=True)
class Session:
    """A session as its last run has left it: saved `version` times, last by `run_id`."""

    session_id: str
    state: Any
    version: int
    run_id: str
    create_time: datetime | None = None
    update_time: datetime | None = None


class Sessions:
    """The tenant's sessions: `client.sessions`."""

    def __init__(self, stub: invoker_service_pb2_grpc.InvokerServiceStub, link: Link) -> None:
        self._stub = stub
        self._link = link

    async def get(self, session_id: str) -> Session:
        """Return a session. Raises `SessionNotFound` while no run of it has saved anything."""
        request = invoker_service_pb2.GetSessionRequest(session_id=session_id)
        found = (await self._link.call(self._stub.GetSession, request)).session
        return Session(
            session_id=found.session_id,
            state=plain_value(found.state),
            version=found.version,
            run_id=found.run_id,
            create_time=time_of(found.create_time),
            update_time=time_of(found.update_time),
        )

    async def delete(self, session_id: str) -> None:
        """Forget what a session holds: its next run begins anew. The runs stay on record.

        Raises `SessionInUse` while a run of it has not ended. Not repeated by itself: a second call would
        find nothing and raise `SessionNotFound`.
        """
        request = invoker_service_pb2.DeleteSessionRequest(session_id=session_id)
        await self._link.call(self._stub.DeleteSession, request, repeatable=False)
