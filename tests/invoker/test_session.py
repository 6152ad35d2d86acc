"""People read and forget sessions of their own tenant, and get sentences for everything else."""

from typing import Any

import grpc
import pytest

from holdfast.ledger.commit_value import SessionWrite, Stored
from holdfast.v1 import invoker_service_pb2
from tests.invoker.runner import Runner
from tests.invoker.stand import Invoker, facts_of, fields_of, of_tenant, reason_of
from tests.support.ledger import admitted, finish, invocation, opened

pb: Any = invoker_service_pb2


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def save(door: Invoker, state: bytes, version: int = 0) -> str:
    """Let a run of the session `s` save something; return its id."""
    db = door.parts.db
    await admitted(db, invocation(tenant="acme", session_id="s"))
    (run,) = await (await opened(db)).take()
    assert isinstance(await finish(db, run, session=SessionWrite(state, version)), Stored)
    return str(run.run_id)


async def test_a_session_is_read_as_its_last_run_has_left_it_and_forgotten_once(door: Invoker) -> None:
    await save(door, b'{"n":1}')
    run_id = await save(door, '{"n":2,"at":[1.5,null,"ö",{"deep":true}]}'.encode(), 1)
    asked = pb.GetSessionRequest(session_id="s")
    session = (await door.invoker.GetSession(asked, metadata=of_tenant("acme"))).session
    assert (session.session_id, session.version, session.run_id) == ("s", 2, run_id)
    assert session.state.struct_value["n"] == 2
    assert session.state.struct_value["at"][3]["deep"] is True
    assert session.create_time.ToDatetime() < session.update_time.ToDatetime()
    for call, request in (
        (door.invoker.GetSession, asked),
        (door.invoker.DeleteSession, pb.DeleteSessionRequest(session_id="s")),
    ):
        foreign = await refusal(call(request, metadata=of_tenant("umbrella")))
        assert (foreign.code(), reason_of(foreign)) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    forget = pb.DeleteSessionRequest(session_id="s")
    await door.invoker.DeleteSession(forget, metadata=of_tenant("acme"))
    for call in (
        door.invoker.DeleteSession(forget, metadata=of_tenant("acme")),
        door.invoker.GetSession(asked, metadata=of_tenant("acme")),
    ):
        assert reason_of(await refusal(call)) == "SESSION_NOT_FOUND"


async def test_a_session_in_use_is_not_forgotten(door: Invoker) -> None:
    await save(door, b"{}")
    (waits,) = await admitted(door.parts.db, invocation(tenant="acme", session_id="s"))
    error = await refusal(
        door.invoker.DeleteSession(pb.DeleteSessionRequest(session_id="s"), metadata=of_tenant("acme"))
    )
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_IN_USE")
    assert facts_of(error)["run_id"] == str(waits.run_id)


@pytest.mark.parametrize("session_id", ["", "\0", "x" * 256])
async def test_a_session_is_named_properly(door: Invoker, session_id: str) -> None:
    for call in (
        door.invoker.GetSession(pb.GetSessionRequest(session_id=session_id)),
        door.invoker.DeleteSession(pb.DeleteSessionRequest(session_id=session_id)),
    ):
        error = await refusal(call)
        assert (reason_of(error), fields_of(error)) == ("INVALID_FIELD", ["session_id"])


async def test_a_run_has_a_session_or_an_ordering_key(door: Invoker, worker: Runner) -> None:
    del worker
    both = await refusal(door.invoke(session_id="s", ordering_key="k"))
    assert (reason_of(both), fields_of(both)) == ("INVALID_FIELD", ["ordering_key", "session_id"])
    mimic = await refusal(door.invoke(ordering_key="\x01s"))
    assert (reason_of(mimic), fields_of(mimic)) == ("INVALID_FIELD", ["ordering_key"])
    of_session = (await door.invoke(session_id="s")).run
    of_key = (await door.invoke(ordering_key="s")).run
    for run in (of_session, of_key):
        read = await door.run(run.run_id)
        assert (read.session_id, read.ordering_key) == (run.session_id, run.ordering_key)
    assert (of_session.session_id, of_session.ordering_key) == ("s", "")
    assert (of_key.session_id, of_key.ordering_key) == ("", "s")
