"""People sign in at their organisation's provider; only who began comes back, and with what holds."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from holdfast.console.open_id import OpenId, ProviderError
from holdfast.console.settings import ConsoleSettings
from holdfast.kit.settings import SettingsError, load
from tests.access.guarded import KEY, Guarded, guarding
from tests.console.browser import EXECUTABLE, WHY_NOT, browser
from tests.console.provider import CLIENT_ID, CLIENT_SECRET, Provider, providing
from tests.console.reviewing import ReviewedBatches, console_over

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing(KEY) as found:
        yield found


@pytest.fixture
async def guarded(
    provider: Provider, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Guarded]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    told = {
        "HOLDFAST_JWT_ISSUER": provider.url,
        "HOLDFAST_CONSOLE_OIDC_ISSUER": provider.url,
        "HOLDFAST_CONSOLE_OIDC_CLIENT_ID": CLIENT_ID,
        "HOLDFAST_CONSOLE_OIDC_SECRET": CLIENT_SECRET,
    }
    async with guarding(database_url, tmp_path, console=True, environment=told) as suite:
        yield suite


@pytest.fixture
async def http(guarded: Guarded) -> AsyncIterator[httpx.AsyncClient]:
    url = f"http://{guarded.addresses['console']}"
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        yield client


async def come_back(http: httpx.AsyncClient, begun: httpx.Response) -> httpx.Response:
    """Follow the way to the provider and back, as a browser would."""
    async with httpx.AsyncClient() as elsewhere:
        sent_back = await elsewhere.get(begun.headers["location"])
    return await http.get(sent_back.headers["location"])


async def test_who_signs_in_at_the_provider_is_who_its_token_says(
    provider: Provider, http: httpx.AsyncClient, guarded: Guarded
) -> None:
    assert "Sign in with your organisation" in (await http.get("/sign-in")).text
    begun = await http.get("/sign-in/provider")
    cookie = begun.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=lax", "Path=/sign-in/provider"))
    back = await come_back(http, begun)
    assert "You are signed in" in back.text
    assert "SameSite=Strict" in str(back.headers.get_list("set-cookie"))
    assert (provider.asked["scope"], provider.asked["response_type"]) == ("openid", "code")
    page = (await http.get("/runs")).text
    assert "ada" in page
    assert "acme" in page
    assert "pst" not in guarded.suite.log("console")


async def test_an_answer_that_is_forged_late_or_of_another_is_refused(
    provider: Provider, http: httpx.AsyncClient
) -> None:
    begun = await http.get("/sign-in/provider")
    async with httpx.AsyncClient() as elsewhere:
        answer = (await elsewhere.get(begun.headers["location"])).headers["location"]
    async with httpx.AsyncClient(base_url=http.base_url) as victim:
        assert "another browser" in (await victim.get(answer)).text
        await victim.get("/sign-in/provider")
        assert "another sign-in" in (await victim.get(answer)).text
    taken = await http.get(answer)
    assert "You are signed in" in taken.text
    await http.get("/sign-in/provider")
    again = await http.get(answer)
    assert (again.status_code, "another sign-in" in again.text) == (400, True)
    for claims in ({"nonce": "other"}, {"aud": "somebody"}, {"iss": "https://evil.test"}, {"exp": 1}):
        provider.claims = claims
        async with httpx.AsyncClient(base_url=http.base_url) as fresh:
            refused = await come_back(fresh, await fresh.get("/sign-in/provider"))
            assert (refused.status_code, 'role="alert"' in refused.text) == (502, True), claims
            assert (await fresh.get("/runs")).headers["location"] == "/sign-in"
    provider.claims, provider.fails = {}, "access_denied"
    async with httpx.AsyncClient(base_url=http.base_url) as fresh:
        refused = await come_back(fresh, await fresh.get("/sign-in/provider"))
        assert "The provider has refused: access_denied" in refused.text


@pytest.mark.parametrize("described", [{"issuer": "https://evil.test"}, {"more": "x" * 2**20}])
async def test_a_configuration_that_is_anothers_or_has_no_end_is_not_used(
    provider: Provider, described: dict[str, str]
) -> None:
    open_id = OpenId(
        ConsoleSettings(auth=("jwt",), console_oidc_issuer=provider.url, console_oidc_client_id=CLIENT_ID)
    )
    provider.described = described
    with pytest.raises(ProviderError, match="cannot be used"):
        await open_id.begin("http://127.0.0.1/back")
    provider.described = {}
    assert (await open_id.begin("http://127.0.0.1/back"))[0].startswith(provider.url)


async def test_a_browser_comes_back_signed_in_though_its_cookie_is_strict(
    provider: Provider, guarded: Guarded
) -> None:
    if EXECUTABLE is None:
        pytest.skip(WHY_NOT)
    # Another host than the provider's, so that the way back is cross-site as it is in the world.
    url = f"http://localhost:{urlsplit('//' + guarded.addresses['console']).port}"
    async with browser() as page:
        await page.open(url + "/sign-in")
        await page.run("document.querySelector('.wide-button').click()")
        await page.until("location.pathname === '/runs' && document.querySelector('.me')")
        assert "ada" in await page.run("document.querySelector('.me').textContent")
        assert page.complaints == []
    assert provider.asked["redirect_uri"] == f"{url}/sign-in/provider/back"


ISSUER = {"HOLDFAST_CONSOLE_OIDC_ISSUER": "https://id.example"}


@pytest.mark.parametrize(
    ("variables", "word"),
    [
        (ISSUER, "takes HOLDFAST_AUTH=jwt"),
        ({**ISSUER, "HOLDFAST_AUTH": "jwt"}, "CLIENT_ID"),
        (
            {
                "HOLDFAST_CONSOLE_OIDC_ISSUER": "http://id.example",
                "HOLDFAST_AUTH": "jwt",
                "HOLDFAST_CONSOLE_OIDC_CLIENT_ID": "c",
            },
            "https",
        ),
        ({"HOLDFAST_CONSOLE_OIDC_SECRET": "s", "HOLDFAST_CONSOLE_OIDC_SECRET_FILE": "/x"}, "one of them"),
    ],
)
def test_a_provider_that_would_be_unsafe_is_refused(variables: dict[str, str], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        load(ConsoleSettings, variables)


async def test_without_a_provider_there_is_no_way_to_one() -> None:
    batches = ReviewedBatches()  # type: ignore[abstract]  # no call is made
    async with console_over(batches) as url, httpx.AsyncClient(base_url=url) as stranger:
        for path in ("/sign-in/provider", "/sign-in/provider/back?code=1&state=2"):
            assert (await stranger.get(path)).status_code == 404
