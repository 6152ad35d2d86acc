"""Tokens are made and ended, the audit is read, and refused events are sent again or given up, from pages."""

import re
from typing import Any

import asyncpg
import httpx

from holdfast.client import RefusedEvent
from tests.console.admitting import Admitting, console_for
from tests.console.agents import EVIL
from tests.console.conftest import Desk
from tests.console.test_page import harmless
from tests.console.test_sign_in import Visitor
from tests.kit.until import until


async def test_a_token_is_made_shown_once_and_revoked(desk: Desk) -> None:
    assert "No token yet" in await desk.page("/tokens")
    for wrong, word in (({"name": ""}, "a name"), ({}, "at least one role"), ({"days": "5"}, "how long")):
        fields = {"name": "ci", "days": "7", **wrong} | ({"role_read": "on"} if wrong else {})
        refused = await desk.post("/tokens", **fields)
        assert (refused.status_code, word in refused.text) == (400, True), wrong
    made = await desk.post("/tokens", name=EVIL, role_invoke="on", role_read="on", groups="a, b", days="7")
    assert harmless(made.text)
    secret = re.search(r'<code tabindex="0">(hf_[^<]+)</code>', made.text)
    assert secret is not None
    assert made.headers["cache-control"] == "no-store"
    page = await desk.page("/tokens")
    assert harmless(page)
    assert "hf_" not in page
    (token,) = [each async for each in desk.client.access.tokens()]
    assert (sorted(token.roles), sorted(token.groups)) == (["invoke", "read"], ["a", "b"])
    assert token.expire_time is not None
    await desk.post(f"/tokens/{token.token_id}/revoke")
    page = await desk.page("/tokens")
    assert "revoked" in page
    assert f"/tokens/{token.token_id}/revoke" not in page
    await desk.post("/tokens/00000000-0000-4000-8000-000000000000/revoke")
    assert 'class="flash bad"' in await desk.page("/tokens")
    assert secret[1] not in desk.suite.log("console")


async def test_the_secret_of_a_token_is_shown_though_the_others_cannot_be() -> None:
    access = Admitting()  # type: ignore[abstract]  # the other methods are UNIMPLEMENTED
    access.lists = False
    async with console_for(access) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        visitor = Visitor(http, url)
        await visitor.post("/sign-in", tenant="default", user="uma")
        assert (await http.get("/tokens")).status_code == 403
        made = await visitor.post("/tokens", name="ci", role_read="on", days="7")
        assert (made.status_code, access.secret in made.text) == (200, True)
        assert "cannot be shown now" in made.text
        assert "No token yet" not in made.text


async def test_the_audit_shows_each_call_once_with_how_it_ended(desk: Desk) -> None:
    run_id = (await desk.client.invoke("listen", {})).run_id
    await desk.client.cancel(run_id, EVIL)
    await desk.post("/runs/00000000-0000-4000-8000-000000000000/retry")
    page = await desk.page("/audit")
    assert re.search(r"<script>document|<img src=x", page) is None
    assert page.count("CancelRun") == 1
    assert f'href="/runs/{run_id}"' in page
    assert page.count("RetryRun") == 1
    assert "not found" in page.partition("RetryRun")[2]


async def test_refused_events_are_sent_again_or_given_up(desk: Desk, database_url: str) -> None:
    assert "Nothing was refused" in await desk.page("/refused")
    stage = "SELECT enqueue_run($1, $2::text::jsonb, $3)"
    settings = {"search_path": "holdfast"}
    connection: Any = await asyncpg.connect(database_url, server_settings=settings)
    try:
        for key in ("one", "two"):
            await connection.execute(stage, "nobody", f'{{"key": "{key}", "evil": "<script>document"}}', key)
    finally:
        await connection.close()

    async def refused() -> list[RefusedEvent]:
        return [each async for each in desk.client.refused_events.list()]

    async def both() -> bool:
        return len(await refused()) == 2

    await until(both)
    page = await desk.page("/refused")
    assert harmless(page)
    assert "UNKNOWN_INTENT" in page
    first, second = await refused()
    await desk.post(f"/refused/{first.event_id}/retry")
    assert "goes through the door again" in await desk.page("/refused")
    await desk.post(f"/refused/{second.event_id}/discard")
    assert "is given up" in await desk.page("/refused")
    await desk.post(f"/refused/{second.event_id}/discard")
    assert 'class="flash bad"' in await desk.page("/refused")
    assert (await desk.post(f"/refused/{second.event_id}/explode")).status_code == 404

    async def again() -> bool:
        return [each.idempotency_key for each in await refused()] == [first.idempotency_key]

    await until(again)
