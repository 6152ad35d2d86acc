"""A session over the wire: found with the history, saved with the end, and nothing malformed passes."""

from typing import Any

import pytest

from holdfast.v1 import checkpoint_service_pb2 as pb
from holdfast.v1 import run_pb2
from holdfast.v1.checkpoint_pb2 import Commit, SessionWrite
from holdfast.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub
from tests.support.checkpoint import Wire, message, reasons, wire
from tests.support.commit import Floor


async def loaded(stub: CheckpointServiceStub, run: Any) -> pb.LoadRunResponse:
    request = pb.LoadRunRequest(run_id=str(run.run_id), epoch=run.epoch)
    pages = [page async for page in stub.LoadRun(request)]
    assert not any(page.HasField("session") for page in pages[:-1])
    return pages[-1]


async def told(stream: Wire, commit: Commit) -> list[str]:
    return reasons(await stream.ask(commit))


def ending(run: Any, number: int = 1, **session: Any) -> Commit:
    commit = message(run, number, end=True)
    commit.session.CopyFrom(SessionWrite(**session))
    return commit


async def test_what_one_run_saves_the_next_one_finds(stub: CheckpointServiceStub, floor: Floor) -> None:
    await floor.admit(2, session_id="s")
    (first,) = await floor.take(5)
    page = await loaded(stub, first)
    assert page.HasField("session")
    assert (page.session.state, page.session.version) == (b"", 0)
    async with wire(stub) as stream:
        assert await told(stream, ending(first, state=b'{"n": 1}')) == ["COMMITTED"]
        (second,) = await floor.take(5)
        found = (await loaded(stub, second)).session
        assert (found.state, found.version) == (b'{"n": 1}', 1)
        again = await told(stream, ending(second, state=b'{"n": 2}', loaded_version=0))
        assert again == ["SESSION_CONFLICT"]
        assert await told(stream, ending(second, state=b'{"n": 2}', loaded_version=1)) == ["COMMITTED"]


async def test_a_run_without_a_session_is_loaded_without_one(
    stub: CheckpointServiceStub, floor: Floor
) -> None:
    (run,) = await floor.lease(ordering_key="s")
    assert not (await loaded(stub, run)).HasField("session")
    async with wire(stub) as stream:
        assert await told(stream, ending(run, state=b"{}")) == ["INVALID_FIELD"]


@pytest.mark.parametrize(
    "state",
    [b"", b"no json", b'{"a": NaN}', b'{"a": 1e999}', b'"\\ud800"', b"[" * 25 + b"]" * 25, b"[" * 100_000,
     b'"' + b"x" * 1024 * 1024 + b'"', b"1" * 400],
    ids=["empty", "words", "nan", "infinite", "surrogate", "deep", "abyss", "large", "huge number"],
)  # fmt: skip
async def test_a_malformed_state_is_refused(stub: CheckpointServiceStub, floor: Floor, state: bytes) -> None:
    (run,) = await floor.lease(session_id="s")
    async with wire(stub) as stream:
        assert await told(stream, ending(run, state=state)) == ["INVALID_FIELD"]
        assert await told(stream, ending(run, state=b"[" * 24 + b"]" * 24)) == ["COMMITTED"]


async def test_a_session_goes_only_with_an_end_that_saves(stub: CheckpointServiceStub, floor: Floor) -> None:
    (run,) = await floor.lease(session_id="s")
    plain = message(run, 1, "k", events=1)
    failed = message(run, 1)
    failed.end.status = run_pb2.RUN_STATUS_FAILED
    failed.end.failure.reason = "NO"
    back = message(run, 1)
    back.requeue.blameless = True
    negative = message(run, 1, end=True)
    negative.session.loaded_version = -1
    async with wire(stub) as stream:
        for commit in (plain, failed, back, negative):
            commit.session.state = b"{}"
            assert await told(stream, commit) == ["INVALID_FIELD"]
