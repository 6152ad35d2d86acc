"""What comes from elsewhere, or from nobody, is refused before anything has happened."""

import asyncio
import base64
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from starlette.requests import HTTPConnection
from starlette.routing import Route

from holdfast import console
from holdfast.console.app import application
from holdfast.console.page import PLACES
from holdfast.console.session import COOKIE, Session, Sessions, anonymous, say
from holdfast.console.settings import ConsoleSettings
from holdfast.kit.auth.rule import RULES
from holdfast.kit.settings import SettingsError, load
from tests.console.browser import Browser
from tests.console.conftest import Desk

SECRET = "s" * 32
OPEN = {"/", "/healthz", "/sign-in", "/sign-in/provider", "/sign-in/provider/back"}
"""What nobody needs to sign in for; the POST of /sign-in has its own tests."""


async def test_a_form_without_its_token_or_from_another_origin_is_refused(desk: Desk) -> None:
    run_id = (await desk.client.invoke("listen", {})).run_id
    path, token, own = f"/runs/{run_id}/cancel", await desk.csrf(), {"origin": desk.url}
    other = {"origin": "http://evil.example"}
    refused = [
        await desk.http.post(path, data={"csrf": "guess"}, headers=own),
        await desk.http.post(path, data={"x": "1"}, headers=own),
        await desk.http.post(path, data={"csrf": token}, headers=other),
        await desk.http.post(path, data={"csrf": token}, headers={"origin": "null"}),
        await desk.http.post(path, data={"csrf": token}),
        await desk.http.post(path, json={"csrf": token}, headers=own),
    ]
    assert [answer.status_code for answer in refused] == [403] * 6
    large = await desk.http.post(path, data={"csrf": token, "x": "y" * 2**20}, headers=own)
    assert large.status_code == 413
    assert not (await desk.client.get_run(run_id)).cancel_requested
    assert "action refused" in desk.suite.log("console")
    assert (await desk.http.post(path, data={"csrf": token}, headers=own)).status_code == 303
    assert '"event":"action"' in desk.suite.log("console")
    assert '"user":"uma"' in desk.suite.log("console")


async def test_nobody_sees_nothing_and_another_tenant_sees_its_own(desk: Desk) -> None:
    run_id = (await desk.client.invoke("listen", {})).run_id
    async with httpx.AsyncClient(base_url=desk.url) as stranger:
        for path in ("/runs", f"/runs/{run_id}", "/approvals", "/outbox", "/tenants"):
            assert (await stranger.get(path)).headers["location"] == "/sign-in"
        told = (await stranger.get(f"/runs/{run_id}/live")).text
        assert told.startswith("event: trouble\n")
        assert "You are signed out" in told
        assert told.endswith("event: over\ndata: \n\n")
        assert run_id not in told
        assert (await stranger.put("/runs")).status_code == 405
        assert (await stranger.get("/runs", headers={"host": "evil.example"})).status_code == 400
    form = {"csrf": await desk.csrf(), "tenant": "acme", "user": "eve"}
    await desk.http.post("/sign-in", data=form, headers={"origin": desk.url})
    assert run_id not in (await desk.http.get("/runs")).text
    missing = await desk.http.get(f"/runs/{run_id}")
    assert missing.status_code == 404
    assert "another tenant" in missing.text
    await desk.post("/sign-out")
    assert (await desk.http.get("/runs")).headers["location"] == "/sign-in"


async def test_what_another_site_leads_here_does_not_touch_the_session_of_the_browser() -> None:
    transport = httpx.ASGITransport(application(ConsoleSettings(), asyncio.Event()))
    led = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7480") as http:
        for path in ("/", "/runs", "/runs/1?talk=1", "/sign-in", "/sign-in/provider/back?code=1"):
            answer = await http.get(path, headers=led)
            assert 'http-equiv="refresh" content="0"' in answer.text, path
            assert "set-cookie" not in answer.headers
        forged = await http.post("/sign-out", data={"csrf": ""}, headers={"origin": "http://evil.example"})
        assert (forged.status_code, "set-cookie" in forged.headers) == (403, False)
        assert "set-cookie" not in (await http.get("/runs")).headers
        assert (
            COOKIE
            in (await http.get("/sign-in", headers={"sec-fetch-site": "same-origin"})).headers["set-cookie"]
        )


async def test_who_follows_a_link_of_another_site_stays_signed_in(desk: Desk, chromium: Browser) -> None:
    elsewhere = desk.url.replace("127.0.0.1", "localhost")
    for path in ("/approvals", "/sign-in", "/sign-in/provider/back"):
        await chromium.open(elsewhere + "/sign-in")
        await chromium.run(f"location.href = '{desk.url}{path}'")
        await chromium.until(f"location.href === '{desk.url}{path}' && document.querySelector('.me')")
    await chromium.open(desk.url + "/runs")
    assert await chromium.run("location.pathname") == "/runs"
    assert "uma" in await chromium.run("document.querySelector('.me').textContent")


async def test_no_action_is_done_without_its_token_and_no_page_is_shown_to_nobody() -> None:
    app = application(ConsoleSettings(), asyncio.Event())
    transport, done = httpx.ASGITransport(app), 0
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7480") as http:
        for route in app.routes:
            if not isinstance(route, Route) or route.path in OPEN:
                continue
            path = re.sub(r"{\w+(:int)?}", "1", route.path)
            if "POST" in (route.methods or ()):
                answer = await http.post(path, data={"csrf": ""}, headers={"origin": str(http.base_url)})
                assert answer.status_code == 403, path
            else:
                answer = await http.get(path)
                if path.endswith("/live"):
                    assert "You are signed out" in answer.text, path
                else:
                    assert (answer.headers.get("location"), answer.status_code) == ("/sign-in", 303), path
            done += 1
    assert done > 40


def test_what_pages_ask_of_roles_are_calls_that_there_are() -> None:
    folder = Path(console.__file__).parent
    text = "".join(
        each.read_text("utf-8") for each in (*folder.glob("*.py"), *folder.glob("templates/*.html"))
    )
    asked = set(re.findall(r"may\(\"([A-Za-z/]+)\"\)", text)) | {place.call for place in PLACES}
    assert len(asked) > 20
    assert {f"/holdfast.v1.{call}" for call in asked} <= set(RULES)
    batch = set(re.findall(r", \"(\w+)\"\),?$", (folder / "batch_shape.py").read_text("utf-8"), re.MULTILINE))
    assert len(batch) > 7
    assert {f"/holdfast.v1.BatchService/{call}" for call in batch} <= set(RULES)


async def test_pages_allow_no_script_but_the_consoles_own(desk: Desk) -> None:
    for path in ("/runs", "/approvals", "/outbox", "/tenants", "/talk", "/nowhere"):
        answer = await desk.http.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "style=" not in answer.text
        assert "http://" not in answer.text.replace(desk.url, "")
    for part in desk.http.cookies.jar:
        assert (part.name, part.has_nonstandard_attr("HttpOnly")) == (COOKIE, True)


@pytest.mark.parametrize(
    ("told", "word"),
    [
        ({}, "on its own machine only"),
        ({"listen": "0.0.0.0:7480", "allow_insecure_bind": True}, "others can reach it"),
        ({"auth": ("token",), "console_session_ttl": 7200.0}, "until you sign out or 2 h are over"),
    ],
)
async def test_the_form_to_sign_in_says_who_is_believed_and_for_how_long(
    told: dict[str, Any], word: str
) -> None:
    transport = httpx.ASGITransport(application(ConsoleSettings(**told), asyncio.Event()))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7480") as http:
        assert word in (await http.get("/sign-in")).text


def test_a_forged_or_late_cookie_is_nobodys() -> None:
    sessions, session = Sessions(SECRET, 60), Session(csrf="c", tenant="t", user="u", groups=("g",))
    cookie = sessions.write(session)
    assert sessions.read(cookie) == session
    assert sessions.read(cookie[:40] + ("A" if cookie[40] != "A" else "B") + cookie[41:]) is None
    assert sessions.read("é") is None
    assert Sessions("o" * 32, 60).read(cookie) is None
    assert Sessions(SECRET, -5).read(cookie) is None
    assert sessions.read(sessions.seal("attempt", {"state": "s"})) is None
    newer = sessions.read(sessions.seal("session", {"csrf": "c", "user": "u", "tenant": "t", "new": 1}))
    assert newer == Session(csrf="c", tenant="t", user="u")
    assert not anonymous().signed_in
    assert anonymous().csrf != anonymous().csrf


@pytest.mark.parametrize(
    ("variables", "word"),
    [
        ({"HOLDFAST_LISTEN": "0.0.0.0:7480"}, "anybody could sign in"),
        ({"HOLDFAST_LISTEN": "0.0.0.0:7480", "HOLDFAST_AUTH": "token"}, "in the clear"),
        ({"HOLDFAST_AUTH": "token,none"}, "HOLDFAST_AUTH"),
        ({"HOLDFAST_TLS_CERT_FILE": "/x"}, "go together"),
        ({"HOLDFAST_LISTEN": "7480"}, "host:port"),
        ({"HOLDFAST_CONSOLE_SECRET": "short"}, "32 characters"),
        ({"HOLDFAST_CONSOLE_SECRET": SECRET, "HOLDFAST_CONSOLE_SECRET_FILE": "/x"}, "one of them"),
    ],
)
def test_settings_that_would_be_unsafe_are_refused(variables: dict[str, str], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        load(ConsoleSettings, variables)


def test_a_cookie_does_not_show_the_token_it_holds_and_is_refused_where_it_would_not_fit() -> None:
    sessions = Sessions(SECRET, 60)
    session = Session(
        csrf=anonymous().csrf, tenant="t", user="u", groups=("g",), credential="hf_" + "t" * 2000
    )
    cookie = sessions.write(session)
    assert "hf_" not in cookie + base64.urlsafe_b64decode(cookie).decode("latin-1")
    assert sessions.read(cookie) == session
    assert sessions.fits(session)
    assert not sessions.fits(replace(session, credential="e" * 3000))
    state = SimpleNamespace(state=SimpleNamespace(session=session))
    for text in ("short", "é" * 1000, "\x01" * 1000, '"' * 1000):
        say(cast("HTTPConnection", state), text)
        assert len(sessions.write(state.state.session)) < 4000
        assert state.state.session.flash[:5] == text[:5]
