"""With identity a token opens the console, with its rights and no others, and ends with it."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from holdfast.client import RunStatus
from tests.access.guarded import Guarded, guarding, token_of
from tests.console.browser import EXECUTABLE, WHY_NOT, Browser, browser
from tests.kit.until import until

ROOT = Path(__file__).parents[2]


@dataclass
class Visitor:
    """Somebody's browser, by its manners."""

    http: httpx.AsyncClient
    url: str

    async def csrf(self) -> str:
        """Return the token of the forms."""
        found = re.search(r'name="csrf" value="([^"]+)"', (await self.http.get("/sign-in")).text)
        assert found is not None
        return found[1]

    async def post(self, path: str, **fields: str) -> httpx.Response:
        """Send a form."""
        form = {"csrf": await self.csrf(), **fields}
        return await self.http.post(path, data=form, headers={"origin": self.url})

    async def page(self, path: str) -> str:
        """Return a page that is there."""
        answer = await self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text


@pytest.fixture
async def guarded(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Guarded]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    async with guarding(database_url, tmp_path, console=True) as suite:
        yield suite


@pytest.fixture
async def visitor(guarded: Guarded) -> AsyncIterator[Visitor]:
    url = f"http://{guarded.addresses['console']}"
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        yield Visitor(http, url)


async def test_a_token_signs_in_as_its_user_with_its_rights_and_no_others(
    guarded: Guarded, visitor: Visitor
) -> None:
    reader = await token_of(guarded.url, "read", user="rita")
    operator = await token_of(guarded.url, "operate", "invoke", user="otto")
    async with guarded.client(operator) as client:
        run_id = (await client.invoke("wait", {})).run_id
    for wrong in ("", "hf_sesame", "two words", "x" * 9000):
        answer = await visitor.post("/sign-in", token=wrong)
        assert answer.status_code in {400, 401}, wrong
        assert 'role="alert"' in answer.text
        assert "sesame" not in answer.text
    elsewhere = await visitor.post("/sign-in", token=reader, tenant="other")
    assert (elsewhere.status_code, "another tenant" in elsewhere.text) == (403, True)
    assert (await visitor.http.get("/runs")).headers["location"] == "/sign-in"
    assert (await visitor.post("/sign-in", token=reader)).headers["location"] == "/runs"
    page = await visitor.page(f"/runs/{run_id}")
    assert "rita" in page
    assert "authorization: Bearer $HOLDFAST_TOKEN" in page
    assert reader not in page
    assert all(f"/{action}" not in page for action in ("cancel", "pause", "fork", "say"))
    assert "/tokens" not in page
    refused = await visitor.post(f"/runs/{run_id}/cancel")
    assert refused.status_code == 303
    assert "You may not do this, and nothing has happened." in await visitor.page(f"/runs/{run_id}")
    forbidden = await visitor.http.get("/tokens")
    assert (forbidden.status_code, "Ask an admin for the role" in forbidden.text) == (403, True)
    await visitor.post("/sign-in", token=operator)
    assert "/cancel" in await visitor.page(f"/runs/{run_id}")
    assert (await visitor.post(f"/runs/{run_id}/cancel")).status_code == 303
    async with guarded.client(operator) as client:
        assert (await client.await_run(run_id)).status is RunStatus.CANCELLED
    await visitor.post("/sign-out")
    assert (await visitor.http.get("/runs")).headers["location"] == "/sign-in"
    assert all(secret not in guarded.suite.log("console") for secret in (reader, operator))


async def test_a_revoked_token_is_signed_out_at_the_next_page(guarded: Guarded, visitor: Visitor) -> None:
    admin = await token_of(guarded.url, "admin", user="ada")
    async with guarded.client(admin) as client:
        made = await client.access.create_token("passing", roles=["read"])
        await visitor.post("/sign-in", token=made.secret)
        await visitor.page("/runs")
        await client.access.revoke_token(made.token.token_id)
    out = await visitor.http.get("/runs")
    assert (out.status_code, out.headers["location"]) == (303, "/sign-in")
    assert "does not verify any longer" in await visitor.page("/sign-in")
    assert "You are signed out" in (await visitor.http.get("/runs/live")).text


async def test_a_token_of_the_platform_acts_for_the_tenant_it_names(
    guarded: Guarded, visitor: Visitor
) -> None:
    platform = await token_of(guarded.url, "admin", tenant="*", user="root")
    acme = await token_of(guarded.url, "invoke")
    async with guarded.client(acme) as client:
        run_id = (await client.invoke("wait", {})).run_id
    await visitor.post("/sign-in", token=platform)
    assert run_id not in await visitor.page("/runs")
    await visitor.post("/act-for", tenant="acme")
    assert run_id in await visitor.page("/runs")
    assert "/tenants/acme" in await visitor.page("/tenants")
    await visitor.post("/sign-in", token=acme)
    await visitor.post("/act-for", tenant="default")
    assert run_id in await visitor.page("/runs")
    own = await visitor.http.get("/tenants")
    assert own.headers["location"] == "/tenants/acme"
    assert "Only the platform changes limits" in await visitor.page("/tenants/acme")


async def test_who_may_decide_decides_under_their_own_name_and_who_may_not_only_looks(
    guarded: Guarded, visitor: Visitor
) -> None:
    invoker = await token_of(guarded.url, "invoke")
    signer = await token_of(guarded.url, "approve", user="sue", groups=["signers"])
    reader = await token_of(guarded.url, "read", user="rita")
    async with guarded.client(invoker) as client:
        run_id = (await client.invoke("ask", {"what": "it"})).run_id

        async def gated() -> bool:
            return bool([each async for each in client.approvals().list(run_id=run_id)])

        await until(gated, deadline=60)
        (gate,) = [each async for each in client.approvals().list(run_id=run_id)]
        await visitor.post("/sign-in", token=reader)
        page = await visitor.page("/approvals")
        assert "takes the role <code>approve</code>" in page
        assert "data-approve" not in page
        await visitor.post(f"/approvals/{gate.approval_id}/decide", verdict="approve")
        assert "You may not do this" in await visitor.page("/approvals")
        await visitor.post("/sign-in", token=signer)
        assert gate.approval_id in await visitor.page("/approvals?view=mine")
        await visitor.post(
            f"/approvals/{gate.approval_id}/decide", verdict="approve", revision=str(gate.payload_revision)
        )
        assert (await client.approvals().get(gate.approval_id)).by == ("sue",)
        assert (await client.await_run(run_id)).status is RunStatus.SUCCEEDED


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    if EXECUTABLE is None:
        pytest.skip(WHY_NOT)
    async with browser() as page:
        await page.look()
        yield page


async def test_a_person_pastes_a_token_and_signs_out_in_a_browser(
    guarded: Guarded, visitor: Visitor, chromium: Browser
) -> None:
    token = await token_of(guarded.url, "admin", user="ada")
    await chromium.open(visitor.url + "/runs")
    await chromium.until("location.pathname === '/sign-in' && document.activeElement.name === 'token'")
    await chromium.run(
        "document.activeElement.value = 'hf_wrong'; document.activeElement.form.requestSubmit()"
    )
    await chromium.until("document.querySelector('[role=alert]')?.textContent.includes('does not verify')")
    await chromium.run(
        f"document.querySelector('[name=token]').value = '{token}';"
        "document.querySelector('[name=token]').form.requestSubmit()"
    )
    await chromium.until("location.pathname === '/runs' && document.querySelector('.me')")
    await chromium.run("document.querySelector('.me summary').click()")
    assert "admin" in await chromium.run("document.querySelector('.me[open] .card').textContent")
    await chromium.press("Escape")
    await chromium.until("!document.querySelector('.me[open]')")
    assert token not in await chromium.run("document.documentElement.outerHTML + document.cookie")
    await chromium.run("document.querySelector('form[action=\"/sign-out\"] button').click()")
    await chromium.until("location.pathname === '/sign-in'")
    await chromium.open(visitor.url + "/runs")
    await chromium.until("location.pathname === '/sign-in'")
    assert not [each for each in chromium.complaints if "401" not in each]
