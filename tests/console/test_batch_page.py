"""Batches are followed, steered and retried from their page, which shows of them what the ledger holds."""

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from holdfast.client import (
    BatchInput,
    BatchItemStatus,
    BatchProgress,
    BatchSpec,
    BatchStatus,
    Invocation,
)
from holdfast.console.batch_shape import ORDER, money, parts, percent, quantile
from tests.console.agents import EVIL
from tests.console.browser import Browser
from tests.console.conftest import Desk
from tests.console.test_browser import said
from tests.console.test_page import harmless, stream
from tests.kit.until import until


def spec(intent: str, **more: Any) -> BatchSpec:
    given: dict[str, Any] = {
        "display_name": f"B {EVIL}",
        "labels": {"team": EVIL},
        "start_when_uploaded": True,
    }
    return BatchSpec(Invocation(intent), **{**given, **more})


def inputs(count: int) -> list[BatchInput]:
    return [BatchInput({"name": EVIL}, key=f"{n} {EVIL}") for n in range(count)]


async def test_a_batch_is_held_hastened_resumed_and_ended(desk: Desk) -> None:
    assert "No batch yet" in await desk.page("/batches")
    batch = await desk.client.batches.create(
        spec("listen", max_parallelism=2, start_when_uploaded=False), inputs(3)
    )
    here = f"/batches/{batch.batch_id}"
    assert "waits to be started" in await desk.page(here)
    await desk.post(f"{here}/do/start")

    async def running(count: int) -> bool:
        _, progress = await desk.client.batches.get(batch.batch_id)
        return progress.counts.get(BatchItemStatus.RUNNING) == count

    async def status() -> BatchStatus:
        return (await desk.client.batches.get(batch.batch_id))[0].status

    await until(lambda: running(2))
    page = await desk.page(here)
    assert harmless(page)
    assert "0 of 3" in page
    assert "2 in flight of 2" in page
    await desk.post(f"{here}/do/pause", reason="<b>")
    assert "&lt;b&gt;" in await desk.page(here)
    assert await status() is BatchStatus.PAUSED
    await desk.post(f"{here}/do/parallelism", items="many")
    assert "must be a whole number" in await desk.page(here)
    await desk.post(f"{here}/do/parallelism", items="3")
    await desk.post(f"{here}/do/resume")
    await until(lambda: running(3))
    assert "in flight of 3" in await stream(desk, f"{here}/live", "event: numbers")
    listed = await desk.page("/batches?view=going")
    assert harmless(listed)
    assert batch.batch_id in listed
    assert batch.batch_id not in await desk.page("/batches?view=ended")
    assert batch.batch_id in await stream(desk, "/batches/live?view=all", "event: rows")
    assert (await desk.post(f"{here}/do/explode")).status_code == 404
    await desk.post(f"{here}/do/cancel")

    async def cancelled() -> bool:
        return await status() is BatchStatus.CANCELLED

    await until(cancelled)
    assert "/do/cancel" not in await desk.page(here)
    await desk.post(f"{here}/do/resume")
    assert 'class="flash bad"' in await desk.page(here)
    assert (await desk.http.get("/batches/00000000-0000-4000-8000-000000000000")).status_code == 404


async def test_what_failed_alike_is_shown_and_retried(desk: Desk) -> None:
    batch = await desk.client.batches.create(spec("fail", tolerated_share=1.0, skip_staging=True), inputs(2))
    here = f"/batches/{batch.batch_id}"

    async def skipped() -> bool:
        return (await desk.client.batches.get(batch.batch_id))[1].counts.get(BatchItemStatus.SKIPPED) == 2

    await until(skipped, deadline=60)
    page = await desk.page(here)
    assert harmless(page)
    assert "ValueError" in page
    assert "Retry these" in page
    items = await desk.page(f"{here}/items?status=skipped&failure=ValueError")
    assert harmless(items)
    assert items.count('class="item"') == 2
    assert "No item is like this" in await desk.page(f"{here}/items?key=other")
    export = await desk.http.get(f"{here}/export?form=csv")
    assert export.headers["content-disposition"].endswith('.csv"')
    assert len(export.text.splitlines()) == 3
    await desk.post(f"{here}/do/retry", failure="ValueError")
    assert "2 items are tried again" in await desk.page(here)


async def test_the_dashboard_draws_itself_and_follows_the_batch(desk: Desk, chromium: Browser) -> None:
    batch = await desk.client.batches.create(spec("listen", skip_staging=True), inputs(2))
    await chromium.open(f"{desk.url}/batches/{batch.batch_id}")
    await chromium.until("document.querySelectorAll('.plot canvas').length === 2")
    await chromium.until("document.querySelector('.segments .at-running')")
    runs = [run.run_id async for run in desk.client.list_runs(intent="listen")]
    for run_id in runs:
        await desk.client.signal(run_id, "input", "bye")
    await chromium.until("document.querySelector('.states .badge').textContent === 'completed'")
    await chromium.until("document.querySelectorAll('#latency-table tbody tr').length > 0")
    await chromium.run("document.querySelector('[data-theme-toggle]').click()")
    await chromium.until("document.querySelectorAll('.plot canvas').length === 2")
    assert await chromium.run("document.title") != "taken"
    going = await desk.client.batches.create(spec("listen", max_parallelism=1), inputs(1))
    await chromium.open(f"{desk.url}/batches/{going.batch_id}")
    await chromium.run("document.querySelector('form[action$=\"/pause\"] button').click()")
    await chromium.until("document.getElementById('confirm').open")
    await chromium.run("document.querySelector('[data-yes]').click()")
    await chromium.until(said("starts no further items"))
    assert (await desk.client.batches.get(going.batch_id))[0].status is BatchStatus.PAUSED
    assert chromium.complaints == []


@given(st.dictionaries(st.sampled_from(ORDER), st.integers(1, 10**7), max_size=len(ORDER)))
def test_the_parts_of_the_bar_lie_side_by_side_and_fill_it(counts: dict[BatchItemStatus, int]) -> None:
    found = parts(BatchProgress(total=sum(counts.values()), counts=counts))
    assert {part.status: part.count for part in found} == counts
    at = 0.0
    for part in found:
        assert abs(part.x - at) < 0.1
        at = part.x + part.width
    assert not found or abs(at - 1000) < 0.2


def test_every_status_of_an_item_has_its_part() -> None:
    assert set(ORDER) == set(BatchItemStatus) - {BatchItemStatus.UNSPECIFIED}


def test_quantiles_shares_and_money_read_as_people_write_them() -> None:
    progress = BatchProgress(latency=((0.1, 50), (1.0, 45), (None, 5)))
    assert (quantile(progress, 0.5), quantile(progress, 0.95), quantile(progress, 0.99)) == (
        "≤ 100 ms",
        "≤ 1.0 s",
        "> 1.0 s",
    )
    assert quantile(BatchProgress(), 0.5) == "-"
    assert [percent(each) for each in (0.0, 1e-9, 0.5, 0.9999, 1.0)] == [
        "0 %",
        "< 0.1 %",
        "50.0 %",
        "> 99.9 %",
        "100 %",
    ]
    assert (money(1_234_567_000), money(12)) == ("1,234.57", "0.000012")
    assert re.fullmatch(r"[\d.]+", money(9_999))


def test_what_is_done_is_of_the_present_phase() -> None:
    counts = {BatchItemStatus.APPLIED: 5, BatchItemStatus.APPLYING: 2, BatchItemStatus.ACCEPTED: 3}
    progress = BatchProgress(total=11, counts={**counts, BatchItemStatus.REJECTED: 1})
    phases = (BatchStatus.APPLYING, BatchStatus.ROLLING_BACK, BatchStatus.IN_REVIEW)
    assert [progress.done(status) for status in phases] == [6, 4, 11]
