"""A runner that sends and does not read is held, then its stream ends; others do not notice."""

import asyncio
from typing import Any

import grpc
import pytest

from holdfast.v1.checkpoint_pb2 import Commit
from holdfast.v1.checkpoint_service_pb2 import CommitRequest
from tests.support.checkpoint import checkpoint_process, message, reasons, wire
from tests.support.commit import Floor

SILENCE = 0.5


async def test_a_stream_whose_answers_are_left_unread_is_held_and_then_ended(
    database_url: str, floor: Floor
) -> None:
    (other,) = await floor.lease()
    # Refused at the door: their answers cost the service as little as can be, so they pile up fast.
    malformed = CommitRequest(commits=[Commit(run_id="x" * 200, number=n) for n in range(256)])
    async with (
        checkpoint_process(database_url, HOLDFAST_ACKNOWLEDGEMENT_TIMEOUT=str(SILENCE)) as checkpoint,
        checkpoint.stub() as stub,
        wire(stub) as greedy,
    ):
        sent = 0
        while not (writing := await _blocked(greedy.call, malformed)):
            sent += 256
            assert sent < 2_000_000, "whatever was sent was taken"
        async with wire(stub) as polite:
            assert reasons(await polite.ask(message(other, 1, "k"))) == ["COMMITTED"]
        read: list[str] = []
        with pytest.raises(grpc.aio.AioRpcError):
            await greedy.read_to_the_end(read)
        assert len(read) < sent
        await asyncio.gather(*writing, return_exceptions=True)


async def _blocked(call: Any, request: CommitRequest) -> set[asyncio.Task[None]]:
    """Write a message; return the writing if it is not taken for longer than answers may be left unread."""
    _, pending = await asyncio.wait([asyncio.create_task(call.write(request))], timeout=SILENCE * 4)
    return pending
