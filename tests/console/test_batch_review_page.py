"""Staged outputs are looked at beside what is there, judged together, and applied; nothing of it by half."""

import html
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlencode

import httpx
import pytest

from holdfast.client import BatchItem, BatchItemStatus
from holdfast.console.batch_review_page import compared
from holdfast.v1.batch_service_pb2 import ApplyBatchRequest
from tests.console.agents import EVIL
from tests.console.browser import EXECUTABLE, WHY_NOT, Browser, browser
from tests.console.reviewing import BATCH_ID, ReviewedBatches, console_over, values
from tests.console.test_browser import said
from tests.console.test_page import harmless
from tests.console.test_schedule_page import flaw

HERE = f"/batches/{BATCH_ID}/review"


@dataclass
class Reviewer:
    """Somebody signed in, and the batch they see."""

    http: httpx.AsyncClient
    batches: ReviewedBatches
    url: str

    async def post(self, path: str, **fields: str) -> httpx.Response:
        """Send a form as its page would."""
        found = re.search(r'name="csrf" value="([^"]+)"', (await self.http.get("/sign-in")).text)
        assert found is not None
        return await self.http.post(path, data={"csrf": found[1], **fields}, headers={"origin": self.url})

    async def page(self, path: str = HERE) -> str:
        """Return a page that is there."""
        answer = await self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text


@pytest.fixture
async def reviewer() -> AsyncIterator[Reviewer]:
    batches = ReviewedBatches()  # type: ignore[abstract]  # the other methods are UNIMPLEMENTED
    async with console_over(batches) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        found = Reviewer(http, batches, url)
        await found.post("/sign-in", tenant="default", user="uma")
        yield found


async def test_a_sample_is_judged_edited_and_stored_together(reviewer: Reviewer) -> None:
    page = await reviewer.page(f"{HERE}?size=20&spread=label&seed=7")
    assert harmless(page)
    assert page.count("data-sample") == 4
    assert page.count('class="changed"') == 4
    asked = reviewer.batches.asked[-1]
    assert (asked.size, asked.seed, asked.unjudged_only, asked.strata.by_label) == (20, 7, True, True)
    assert page.count('<details open><summary class="hint">What was sent') == 4
    for wrong, field, word in (
        ({"verdict-0": "reject", "verdict-1": "accept"}, "reason-0", "without a reason"),
        ({"verdict-1": "accept", "output-1": "{"}, "output-1", "is not JSON"),
        ({"verdict-1": "", "reason-1": "x"}, "", "Nothing was judged"),
    ):
        refused = await reviewer.post(f"/batches/{BATCH_ID}/judge", **wrong)
        assert (refused.status_code, word in refused.text) == (400, True), wrong
        assert not field or word in flaw(refused.text, field)
    assert not reviewer.batches.judged
    verdicts = {"verdict-0": "reject", "reason-0": "wrong city", "verdict-1": "accept", "verdict-2": "accept"}
    verdicts |= {"output-2": '{"city": null}', "verdict-3": "", "rest": "accept"}
    await reviewer.post(f"/batches/{BATCH_ID}/judge", **verdicts)
    judged, request = reviewer.batches.judged, reviewer.batches.asked[-1]
    assert sorted(judged) == [0, 1, 2]
    assert judged[0].reason == "wrong city"
    assert not judged[1].HasField("edited_output")
    assert "city" in judged[2].edited_output.struct_value.fields
    assert request.rest == values.REVIEW_VERDICT_ACCEPT
    page = await reviewer.page()
    assert "Of 3 judged one by one, 2 were accepted." in page
    assert "In all: 2 accepted, 1 rejected, 1 staged." in page
    assert page.count("data-sample") == 1


async def test_a_mistake_leaves_what_was_typed_and_the_sample_it_was_typed_about(reviewer: Reviewer) -> None:
    typed = {f"key-{index}": f"key {index} {EVIL}" for index in range(4)}
    typed |= {"verdict-0": "reject", "verdict-1": "accept", "reason-1": f"so {EVIL}", "verdict-2": "accept"}
    typed |= {"output-2": f'{{"city": "Ulm", "{EVIL[:8]}": 1}}', "rest": "reject", "rest_reason": "late"}
    reviewer.batches.elsewhere = {2}  # others were staged meanwhile, and draw in its place
    refused = await reviewer.post(f"/batches/{BATCH_ID}/judge?size=20&spread=label&seed=7", **typed)
    page = html.unescape(refused.text)
    assert harmless(refused.text)
    assert (refused.status_code, "without a reason" in page) == (400, True)
    assert re.findall(r'name="(verdict-\d)" value="(\w+)" data-\w+ checked', page) == [
        ("verdict-2", "accept"),
        ("verdict-0", "reject"),
        ("verdict-1", "accept"),
    ]
    assert f'name="reason-1" value="{typed["reason-1"]}"' in page
    assert re.search(
        r'name="output-2"[^>]*(?<!disabled)>' + re.escape(typed["output-2"]) + "</textarea>", page
    )
    assert re.search(r'name="rest" value="reject" checked', page)
    assert 'name="rest_reason" value="late"' in page
    asked = next(each for each in reversed(reviewer.batches.asked) if "Sample" in type(each).__name__)
    assert (asked.size, asked.seed, asked.strata.by_label) == (20, 7, True)
    assert f"/batches/{BATCH_ID}/judge?size=20&spread=label&seed=7" in page
    stored = await reviewer.post(
        f"/batches/{BATCH_ID}/judge?size=20&spread=label&seed=7", **{**typed, "reason-0": "wrong city"}
    )
    assert stored.headers["location"] == f"{HERE}?size=20&spread=label&seed=7"
    assert sorted(reviewer.batches.judged) == [0, 1, 2]


async def test_an_output_that_is_shown_cut_is_not_offered_for_editing(reviewer: Reviewer) -> None:
    reviewer.batches.items[1].output.struct_value.update({"text": "x" * 30_000})
    page = await reviewer.page()
    offered = {int(index) for index in re.findall(r'<textarea name="output-(\d+)"', page)}
    assert offered == {0, 2, 3}
    assert "x" * 30_000 in page  # to be read
    assert page.count("too long to be edited here") == 1


async def test_what_was_accepted_is_counted_and_applied_to_one_target(reviewer: Reviewer) -> None:
    assert '<option value="crm">' in await reviewer.page()
    path = f"/batches/{BATCH_ID}/apply"
    assert "does not say where" in await reviewer.page()
    reviewer.batches.target = {"effect": {"destination": EVIL, "undo_destination": "u"}}
    assert harmless(await reviewer.page())
    assert "undone by <strong>u</strong>" in await reviewer.page()
    reviewer.batches.target = {"follow_up": {"intent": "mail"}}
    assert "by runs for <strong>mail</strong>" in await reviewer.page()
    both = await reviewer.post(path, destination="crm", follow_up="also", only="")
    assert "not to both" in flaw(both.text, "follow_up")
    fast = await reviewer.post(path, destination="crm", rate="fast", only="")
    assert "must be a number" in flaw(fast.text, "rate")
    assert not [each for each in reviewer.batches.asked if "Apply" in type(each).__name__]
    told = {"destination": "crm", "undo_destination": "crm-undo", "rate": "2.5"}
    counted = (await reviewer.post(path, **told, only="count")).text
    assert "2 would be applied; nothing has happened yet" in counted
    assert all(f'name="{name}" value="{value}"' in counted for name, value in told.items())
    request = next(each for each in reviewer.batches.asked if "Apply" in type(each).__name__)
    assert (request.dry_run, request.items_per_second) == (True, 2.5)
    assert request.target.effect.undo_destination == "crm-undo"
    answer = await reviewer.post(path, follow_up="follow", only="")
    assert answer.headers["location"] == f"/batches/{BATCH_ID}"
    assert reviewer.batches.asked[-1].target.follow_up.intent == "follow"
    assert not reviewer.batches.asked[-1].dry_run
    assert "2 are being applied" in await reviewer.page(f"/batches/{BATCH_ID}")
    await reviewer.post(path, only="")
    assert not reviewer.batches.asked[-1].HasField("target")
    assert "1.25" in await reviewer.page(f"/batches/{BATCH_ID}")
    await reviewer.post(f"/batches/{BATCH_ID}/do/rollback", reason="wrong")
    assert reviewer.batches.asked[-1].reason == "wrong"


async def test_an_item_says_who_judged_it_and_links_to_what_applied_and_undid_it(reviewer: Reviewer) -> None:
    ours, other = reviewer.batches.items[:2]
    ours.follow_up_run_id, ours.undo_run_id = BATCH_ID[:-1] + "1", BATCH_ID[:-1] + "2"
    ours.review.verdict, ours.review.reviewer = values.REVIEW_VERDICT_ACCEPT, EVIL
    ours.review.edited_output.struct_value.update({"city": "Ulm"})
    other.effect_id, other.undo_effect_id = BATCH_ID[:-1] + "3", BATCH_ID[:-1] + "4"
    for item, links in ((ours, ("/runs/{0}1", "/runs/{0}2")), (other, ("/outbox/{0}3", "/outbox/{0}4"))):
        query = urlencode({"key": item.input.key})
        page = await reviewer.page(f"/batches/{BATCH_ID}/items?{query}")
        assert harmless(page)
        assert all(f'href="{link.format(BATCH_ID[:-1])}"' in page for link in links)
        assert ("Ulm" in page, "Accepted by" in page) == (item is ours, item is ours)


async def test_a_release_that_does_not_review_yet_says_so_in_a_sentence(reviewer: Reviewer) -> None:
    reviewer.batches.served = False
    page = await reviewer.page()
    assert "Staged outputs cannot be looked at here yet." in page
    refused = await reviewer.post(f"/batches/{BATCH_ID}/judge", **{"verdict-1": "accept"})
    assert "This release does not do that yet, and nothing has happened." in refused.text


def test_an_output_is_compared_field_by_field_and_what_differs_comes_first() -> None:
    def item(current: object, output: object) -> BatchItem:
        return BatchItem(0, "", BatchItemStatus.STAGED, {}, current=current, output=output)

    rows = compared(item({"a": 1, "b": None, "c": 2}, {"a": 1, "c": 3, "d": 4}))
    assert [(row.name, row.changed) for row in rows] == [("b", True), ("c", True), ("d", True), ("a", False)]
    assert [row.changed for row in compared(item(None, {"a": 1}))] == [False]
    (row,) = compared(item({"a": 1}, "text"))
    assert (row.name, row.before, row.after, row.changed) == ("output", {"a": 1}, "text", True)


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    if EXECUTABLE is None:
        pytest.skip(WHY_NOT)
    async with browser() as page:
        await page.look()
        yield page


def dry_runs(reviewer: Reviewer) -> list[bool]:
    """Tell of each call to apply whether it only counts."""
    return [asked.dry_run for asked in reviewer.batches.asked if isinstance(asked, ApplyBatchRequest)]


async def test_a_person_reviews_with_the_keyboard(reviewer: Reviewer, chromium: Browser) -> None:
    await chromium.open(reviewer.url + "/sign-in")
    await chromium.run(
        "document.querySelector('[name=user]').value = 'uma';"
        "document.querySelector('form[action=\"/sign-in\"]').requestSubmit()"
    )
    await chromium.until("location.pathname === '/runs' && document.readyState === 'complete'")
    await chromium.open(reviewer.url + HERE)
    await chromium.press("j")
    await chromium.press("a")
    await chromium.until("document.activeElement.id === 'sample-1'")
    await chromium.press("r")
    await chromium.until("document.activeElement.name === 'reason-1'")
    await chromium.run("document.activeElement.value = 'wrong'")
    await chromium.run("document.querySelector('#sample-2 details[data-edit]').open = true")
    await chromium.until("!document.querySelector('[name=output-2]').disabled")
    await chromium.run("document.querySelector('[name=output-2]').value = '{'")
    await chromium.run("document.querySelector('#sample-1 [data-reject]').checked = true")
    await chromium.run("document.querySelector('.sticky .primary').click()")
    await chromium.until(said("is not JSON"))
    assert await chromium.run("document.querySelector('[name=reason-1]').value") == "wrong"
    assert await chromium.run("document.querySelector('#sample-2 details[data-edit]').open")
    await chromium.run("document.querySelector('[name=output-2]').value = '{\"city\": \"Ulm\"}'")
    await chromium.run("document.querySelector('.sticky .primary').click()")
    await chromium.until(said("Of 3 judged one by one"))
    judged = reviewer.batches.judged
    assert [judged[index].verdict for index in (0, 1, 2)] == [1, 2, 1]
    assert judged[2].edited_output.struct_value["city"] == "Ulm"
    await chromium.run("document.querySelector('.apply input[name=destination]').value = 'crm'")
    await chromium.run("document.querySelector('.apply button[value=count]').click()")
    await chromium.until(said("nothing has happened yet"))
    await chromium.run("document.querySelector('.apply button.primary').click()")
    await chromium.until("document.getElementById('confirm').open")
    assert dry_runs(reviewer) == [True], "nothing goes out before it is confirmed"
    await chromium.run("document.querySelector('[data-yes]').click()")
    await chromium.until(said("are being applied"))
    assert dry_runs(reviewer) == [True, False]
    assert await chromium.run("document.title") != "taken"
    assert not [each for each in chromium.complaints if re.search("status of (400|50)", each) is None]
