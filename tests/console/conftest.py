"""The whole suite with the console, a browser's manners in httpx, and a real browser where there is one."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from holdfast.client import Client
from holdfast.dev import Suite
from tests.console.browser import EXECUTABLE, WHY_NOT, Browser, browser
from tests.kit.until import until

ROOT = Path(__file__).parents[2]


@dataclass
class Desk:
    """Somebody who has signed in, and the client that sees what they did."""

    suite: Suite
    http: httpx.AsyncClient
    client: Client
    url: str

    async def csrf(self) -> str:
        """Return the token of the forms of this session."""
        found = re.search(r'name="csrf" value="([^"]+)"', (await self.http.get("/talk")).text)
        assert found is not None
        return found[1]

    async def post(self, path: str, **fields: str) -> httpx.Response:
        """Send a form as its page would."""
        form = {"csrf": await self.csrf(), **fields}
        return await self.http.post(path, data=form, headers={"origin": self.url})

    async def page(self, path: str) -> str:
        """Return a page that is there."""
        answer = await self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text

    async def shows(self, path: str, text: str) -> str:
        """Wait until a page shows a text, and return it."""

        async def there() -> bool:
            return text in (await self.http.get(path)).text

        await until(there)
        return await self.page(path)


@pytest.fixture
async def desk(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    async with Suite(agents=["tests.console.agents:app"], database_url=database_url, console=True) as suite:
        url = f"http://{suite.addresses['console']}"
        client = Client(
            suite.addresses["invoker"],
            dispatcher=suite.addresses["dispatcher"],
            checkpoint=suite.addresses["checkpoint"],
            approval=suite.addresses["approval"],
        )
        async with client, httpx.AsyncClient(base_url=url, timeout=30) as http:
            token = re.search(r'name="csrf" value="([^"]+)"', (await http.get("/sign-in")).text)
            assert token is not None
            form = {"csrf": token[1], "tenant": "default", "user": "uma", "groups": "reviewers"}
            answer = await http.post("/sign-in", data=form, headers={"origin": url})
            assert answer.headers["location"] == "/runs"
            yield Desk(suite, http, client, url)


@pytest.fixture
async def chromium(desk: Desk) -> AsyncIterator[Browser]:
    """A browser in which uma has signed in."""
    if EXECUTABLE is None:
        pytest.skip(WHY_NOT)
    async with browser() as page:
        await page.look()
        await page.open(desk.url + "/sign-in")
        await page.run(
            "document.querySelector('[name=user]').value = 'uma';"
            "document.querySelector('[name=groups]').value = 'reviewers';"
            "document.querySelector('form[action=\"/sign-in\"]').requestSubmit()"
        )
        await page.until("location.pathname === '/runs' && document.readyState === 'complete'")
        yield page
