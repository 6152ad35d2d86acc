"""In a real browser each page is drawn without a complaint, and people can do what they came for."""

import os
from pathlib import Path

from holdfast.client import BatchInput, BatchSpec, Invocation, Schedule, Timing
from tests.console.agents import EVIL
from tests.console.browser import Browser
from tests.console.conftest import Desk

PICTURES = os.environ.get("HOLDFAST_CONSOLE_PICTURES", "")
"""A folder for pictures of each page, for people to look at."""


NUMBERS = "[...document.querySelectorAll('#log .seq')].map((each) => each.textContent)"


def said(text: str) -> str:
    """Return what is true once a page is whole and says so."""
    flash = "document.querySelector('.flash').textContent"
    return f"document.readyState === 'complete' && {flash}.includes('{text}')"


async def test_pages_about_runs_are_drawn_in_light_dark_and_narrow_without_a_complaint(
    desk: Desk, chromium: Browser
) -> None:
    handle = await desk.client.invoke("greet", {"name": EVIL}, user=EVIL, labels={"team": EVIL})
    asked = await desk.client.invoke("ask", {"name": "Ada"})
    await handle.ended()
    await desk.shows("/approvals", "Pay Ada")
    pages = {"runs": "/runs", "run": f"/runs/{handle.run_id}", "asks": f"/runs/{asked.run_id}"}
    pages |= {name: f"/{name}" for name in ("approvals", "outbox", "tenants", "talk", "tenants/default")}
    await looked_at(desk, chromium, pages)


async def test_pages_about_batches_and_schedules_are_drawn_without_a_complaint(
    desk: Desk, chromium: Browser
) -> None:
    timing = Timing(cron="0 2 * * *", zone="Europe/Berlin")
    await desk.client.schedules.create(Schedule("nightly", timing, Invocation("greet", {"name": EVIL})))
    await desk.client.schedules.trigger("nightly")
    spec = BatchSpec(Invocation("greet"), display_name=EVIL, start_when_uploaded=True)
    batch = await desk.client.batches.create(spec, [BatchInput({"name": EVIL}, key=EVIL)])
    pages = {name: f"/{name}" for name in ("batches", "schedules", "schedules/new")}
    pages |= {"batch": f"/batches/{batch.batch_id}", "schedule": "/schedules/of?name=nightly"}
    pages |= {"items": f"/batches/{batch.batch_id}/items", "edit": "/schedules/edit?name=nightly"}
    await looked_at(desk, chromium, pages)


async def test_pages_about_access_are_drawn_without_a_complaint(desk: Desk, chromium: Browser) -> None:
    await desk.client.access.create_token(EVIL, roles=["read"])
    await looked_at(desk, chromium, {name: f"/{name}" for name in ("tokens", "audit", "refused")})


async def looked_at(desk: Desk, chromium: Browser, pages: dict[str, str]) -> None:
    """Look at pages in light, dark and narrow; each stays within the screen, and the browser content."""
    for name, path in pages.items():
        for look, width, dark in (("light", 1280, False), ("dark", 1280, True), ("narrow", 390, False)):
            await chromium.look(width=width, dark=dark)
            await chromium.open(desk.url + path)
            if name == "run":
                await chromium.until("document.querySelectorAll('#log li').length > 3")
            assert await chromium.run("document.title") != "taken"
            assert await chromium.run("document.documentElement.scrollWidth <= innerWidth"), (name, look)
            if PICTURES:
                await chromium.screenshot(Path(PICTURES) / f"{name.replace('/', '-')}-{look}.png")
    assert chromium.complaints == []


async def test_the_list_and_a_run_follow_what_happens(desk: Desk, chromium: Browser) -> None:
    await desk.client.invoke("greet", {"name": "first"})
    await chromium.open(desk.url + "/runs")
    run_id = (await desk.client.invoke("listen", {})).run_id
    await chromium.until(f"document.querySelector('tbody a[href$=\"{run_id}\"]')")
    await chromium.open(desk.url + f"/runs/{run_id}?talk=1")
    await desk.client.signal(run_id, "input", "from elsewhere")
    await chromium.until("document.querySelector('#words').textContent.includes('heard from elsewhere')")
    for word in ("second", "third"):
        await desk.client.signal(run_id, "input", word)
        await chromium.until(f"document.querySelector('#words').textContent.includes('heard {word}')")
    numbers = await chromium.run(NUMBERS)
    assert numbers == [str(n + 1) for n in range(len(numbers))]
    await chromium.run("document.querySelector('[name=text]').value = 'half a sen'")
    await desk.suite.processes["console"].kill()
    await chromium.until("true")
    await desk.client.signal(run_id, "input", "while away")
    await chromium.until("document.querySelector('#words').textContent.includes('heard while away')")
    assert (
        await chromium.run("document.querySelector('#words').textContent.split('from elsewhere').length") == 2
    )
    assert await chromium.run("document.querySelector('[name=text]').value") == "half a sen"


async def test_a_person_decides_with_the_keyboard_and_confirms_a_cancel(
    desk: Desk, chromium: Browser
) -> None:
    asked = await desk.client.invoke("ask", {"name": "Ada"})
    await desk.shows("/approvals", "Pay Ada")
    await chromium.open(desk.url + "/approvals")
    await chromium.press("j")
    await chromium.until("document.activeElement.matches('[data-gate]')")
    await chromium.press("a")
    await chromium.until("document.activeElement.name === 'reason'")
    await chromium.run("document.activeElement.value = 'good standing'")
    await chromium.press("Enter")
    await chromium.until(said("is approved"))
    run = await desk.client.await_run(asked.run_id)
    assert run.status.name == "SUCCEEDED"
    waiting = (await desk.client.invoke("listen", {})).run_id
    await chromium.open(desk.url + f"/runs/{waiting}")
    await chromium.run("document.querySelector('form[action$=\"/cancel\"] button').click()")
    await chromium.until("document.getElementById('confirm').open")
    # A stream may put other forms in place of these while somebody reads the question.
    await chromium.run("document.querySelector('.actions').replaceChildren()")
    await chromium.run("document.querySelector('[data-yes]').click()")
    await desk.client.await_run(waiting)
    await chromium.until(said("asked to stop"))
    await chromium.run("document.querySelector('[data-theme-toggle]').click()")
    assert await chromium.run("document.documentElement.dataset.theme") == "dark"
