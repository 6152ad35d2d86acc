"""A session ends a fixed time after somebody signed in, whatever they do meanwhile."""

import re
import time

import httpx

from holdfast.console.session import COOKIE, Session, Sessions
from tests.console.admitting import Admitting, console_for

SECRET = "s" * 32
LONG_AGO_S = 1000


async def test_a_session_that_is_used_ends_when_it_was_to_end() -> None:
    sessions = Sessions(SECRET, 3600)
    shorter = Sessions(SECRET, LONG_AGO_S - 1)
    session = Session(
        csrf="c",
        tenant="default",
        user="root",
        credential="hf_t",
        platform=True,
        flash="You are here.",
        since=int(time.time()) - LONG_AGO_S,
    )
    access = Admitting()  # type: ignore[abstract]  # the other methods are UNIMPLEMENTED
    told = {"auth": ("token",), "console_secret": SECRET, "console_session_ttl": 3600.0}
    async with console_for(access, **told) as url, httpx.AsyncClient(base_url=url) as http:
        http.cookies.set(COOKIE, sessions.write(session), domain="127.0.0.1")
        shown = await http.get("/tokens")
        assert "You are here." in shown.text
        acted = await http.post("/act-for", data={"csrf": "c", "tenant": "acme"}, headers={"origin": url})
        assert acted.headers["location"] == "/runs"
        for answer in (shown, acted):
            left = re.search(r"Max-Age=(\d+)", answer.headers["set-cookie"])
            assert left is not None
            assert int(left[1]) <= 3600 - LONG_AGO_S
            value = answer.headers["set-cookie"].partition("=")[2].partition(";")[0]
            assert sessions.read(value) is not None
            assert shorter.read(value) is None
        assert "You act for acme now." in (await http.get("/tokens")).text


def test_a_session_has_left_what_its_time_has_left() -> None:
    now = int(time.time())
    assert Sessions(SECRET, 60).left(Session(since=now - 61)) == 0
    assert 0 < Sessions(SECRET, 60).left(Session(since=now)) <= 60
