"""An edge killed before or after the Invoker has an event: the sender, who heard nothing, sends it again."""

import asyncio
import os
from pathlib import Path

import httpx
import pytest

from holdfast.dev.process import ServiceProcess
from tests.access.guarded import guarding, token_of
from tests.edge.conftest import SECRETS
from tests.invoker.stand import Invoker
from tests.support.sending import github

BODY = b'{"n": 1}'
SOURCES = '[http.gh]\npath = "/gh"\nverify = "github"\nsecret = "gh"\nintent = "hook"\n'


async def send(address: str, identity: str = "d-1") -> int:
    headers = {k.replace("_", "-"): v for k, v in github(BODY, identity).items()}
    async with httpx.AsyncClient(timeout=20) as http:
        told = {"content-type": "application/json", **headers}
        return (await http.post(f"http://{address}/gh", content=BODY, headers=told)).status_code


@pytest.mark.parametrize(("point", "known"), [("before_take", 0), ("after_take", 1)])
async def test_a_killed_edge_loses_and_doubles_nothing(
    door: Invoker, tmp_path: Path, point: str, known: int
) -> None:
    file = tmp_path / "sources.toml"
    file.write_text(SOURCES)
    told = {
        **os.environ,
        **SECRETS,
        "HOLDFAST_SOURCES_FILE": str(file),
        "HOLDFAST_INVOKER_ADDRESS": door.address,
        "HOLDFAST_CRASH_AT": f"edge.{point}",
    }
    edge = ServiceProcess("edge", "holdfast.edge", told, lambda *_: None, address="127.0.0.1:0")

    async def runs() -> int:
        async with door.parts.db.connection() as connection:
            return int(await connection.fetchval("SELECT count(*) FROM run"))

    try:
        await edge.start()
        with pytest.raises(httpx.RemoteProtocolError):
            await send(edge.address)
        assert await asyncio.wait_for(edge.exited(), 30) == -9
        assert await runs() == known
        edge.tell({"HOLDFAST_CRASH_AT": None})
        await edge.start()
        assert await send(edge.address) == 202
        assert await runs() == 1
    finally:
        await edge.stop()
    assert edge.returncode == 0, "and it stops in order"


async def test_with_identity_a_source_speaks_for_its_tenant_by_its_own_token(
    database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "sources.toml"
    mine = SOURCES.replace('"hook"', '"add"') + 'tenant = "acme"\ntoken = "acme"\n'
    other = mine.replace("http.gh", "http.other").replace('"/gh"', '"/other"')
    file.write_text(mine + other.replace('token = "acme"', 'token = "reader"'))
    told = {
        **SECRETS,
        "HOLDFAST_SOURCES_FILE": str(file),
        "HOLDFAST_SECRET_ACME": await token_of(database_url, "invoke"),
        "HOLDFAST_SECRET_READER": await token_of(database_url, "read"),
    }
    async with guarding(database_url, tmp_path, environment=told, edge=True) as guarded:
        address = guarded.addresses["edge"]
        assert await send(address) == 202
        headers = {k.replace("_", "-"): v for k, v in github(BODY, "d-2").items()}
        async with httpx.AsyncClient(timeout=20) as http:
            answer = await http.post(
                f"http://{address}/other",
                content=BODY,
                headers={"content-type": "application/json", **headers},
            )
        assert (answer.status_code, answer.json()["error"]) == (503, "The source is not set up.")
        async with guarded.client(told["HOLDFAST_SECRET_READER"]) as client:
            found = [run.intent async for run in client.list_runs()]
        assert found == ["add"]
