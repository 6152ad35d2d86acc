"""Pages that are live say what is new, and no more of it to who is nobody any longer."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from holdfast.client import BatchInput, BatchSpec, Invocation
from holdfast.console.session import COOKIE, Session, Sessions
from tests.access.guarded import Guarded, guarding, token_of
from tests.console.admitting import Admitting, console_for
from tests.console.conftest import Desk
from tests.console.test_page import stream
from tests.console.test_sign_in import Visitor

ROOT = Path(__file__).parents[2]
SECRET = "s" * 32
SIGNED_OUT = "You are signed out"


async def ending(http: httpx.AsyncClient, path: str, begun: asyncio.Event | None = None) -> str:
    """Read a stream of the console until it ends."""
    heard = ""
    async with asyncio.timeout(90), http.stream("GET", path) as answer:
        assert answer.status_code == 200, path
        async for piece in answer.aiter_text():
            heard += piece
            if begun is not None:
                begun.set()
    return heard


@pytest.fixture
async def guarded(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Guarded]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    async with guarding(database_url, tmp_path, console=True) as suite:
        yield suite


async def test_a_page_is_live_no_longer_than_the_token_it_was_opened_with(guarded: Guarded) -> None:
    url = f"http://{guarded.addresses['console']}"
    admin = await token_of(guarded.url, "admin", "operate", "invoke", user="ada")
    async with guarded.client(admin) as client, httpx.AsyncClient(base_url=url, timeout=90) as http:
        run_id = (await client.invoke("wait", {})).run_id
        batch = await client.batches.create(BatchSpec(Invocation("wait")), [BatchInput({})])
        made = await client.access.create_token("passing", roles=["read"])
        await Visitor(http, url).post("/sign-in", token=made.secret)
        paths = ("/runs", "/batches", "/approvals", f"/runs/{run_id}", f"/batches/{batch.batch_id}")
        begun = [asyncio.Event() for _ in paths]
        reading = [
            asyncio.create_task(ending(http, f"{path}/live", event))
            for path, event in zip(paths, begun, strict=True)
        ]
        await asyncio.gather(*(event.wait() for event in begun))
        await client.access.revoke_token(made.token.token_id)
        for path, heard in zip(paths, await asyncio.gather(*reading), strict=True):
            assert SIGNED_OUT in heard, path
            assert heard.endswith("event: over\ndata: \n\n"), path


async def test_a_page_is_live_no_longer_than_its_session() -> None:
    access = Admitting()  # type: ignore[abstract]  # the other methods are UNIMPLEMENTED
    told = {"auth": ("token",), "console_secret": SECRET, "console_session_ttl": 60.0}
    session = Session(csrf="c", tenant="default", user="root", credential="hf_t", since=int(time.time()) - 45)
    async with console_for(access, **told) as url, httpx.AsyncClient(base_url=url, timeout=90) as http:
        http.cookies.set(COOKIE, Sessions(SECRET, 60).write(session), domain="127.0.0.1")
        heard = await ending(http, "/runs/live")
    assert SIGNED_OUT in heard
    assert heard.endswith("event: over\ndata: \n\n")


async def test_the_list_of_batches_is_sent_again_only_where_it_has_changed(desk: Desk) -> None:
    await desk.client.batches.create(BatchSpec(Invocation("greet")), [BatchInput({})])
    heard = await stream(desk, "/batches/live", ": still here")
    assert heard.count("event: rows") == 1
