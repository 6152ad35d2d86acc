"""Each page shows what the suite holds, each action does what it says, and nothing shown runs as a script."""

import asyncio
import html
import json
import re
import shlex

from holdfast.client import (
    ApprovalStatus,
    BatchInput,
    BatchSpec,
    Client,
    Destination,
    EffectStatus,
    Invocation,
    RunStatus,
    Shape,
)
from tests.console.agents import EVIL
from tests.console.conftest import Desk
from tests.kit.until import until

_UNESCAPED = re.compile(r"<script>document|<img src=x")


def harmless(page: str) -> bool:
    """Tell whether what would be a script is there as text, and only as text."""
    return "&lt;script&gt;document" in page and _UNESCAPED.search(page) is None


async def test_runs_are_listed_filtered_and_opened(desk: Desk) -> None:
    label = {"team": EVIL}
    handle = await desk.client.invoke("greet", {"name": EVIL}, user=EVIL, labels=label, correlation_id="c<1>")
    failed = await desk.client.invoke("fail", {"name": "it"}, idempotency_key=EVIL)
    await handle.ended()
    await failed.ended()
    runs = await desk.page("/runs")
    assert harmless(runs)
    assert handle.run_id in runs
    assert failed.run_id in runs
    assert failed.run_id not in await desk.page("/runs?status=succeeded")
    assert "No run is like this" in await desk.page("/runs?intent=nothing")
    assert handle.run_id in await desk.page("/runs?correlation=c%3C1%3E")
    assert (
        (await desk.http.get("/runs", params={"id": handle.run_id}))
        .headers["location"]
        .endswith(handle.run_id)
    )
    page = await desk.page(f"/runs/{handle.run_id}")
    assert harmless(page)
    assert harmless(await desk.page(f"/runs/{failed.run_id}"))
    assert page.count("<meter") == 5
    assert "holdfast.v1.InvokerService/GetRun" in page
    assert "look_up" in page


async def test_the_list_goes_on_over_pages_without_losing_a_run(desk: Desk) -> None:
    made = {(await desk.client.invoke("listen", {"n": n})).run_id for n in range(60)}
    first = await desk.page("/runs")
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert following is not None
    second = await desk.page(following[1].replace("&amp;", "&"))
    shown = set(re.findall(r'href="/runs/([0-9a-f-]{36})"', first + second))
    assert shown == made


async def test_a_run_is_held_resumed_spoken_to_interrupted_cancelled_retried_and_forked(desk: Desk) -> None:
    run_id = (await desk.client.invoke("listen", {})).run_id

    async def status() -> RunStatus:
        return (await desk.client.get_run(run_id)).status

    await desk.shows(f"/runs/{run_id}", "parked")
    assert (await desk.post(f"/runs/{run_id}/pause")).status_code == 303
    assert (await desk.client.get_run(run_id)).paused
    assert "The run is held" in await desk.page(f"/runs/{run_id}")
    await desk.post(f"/runs/{run_id}/resume")
    assert not (await desk.client.get_run(run_id)).paused
    await desk.post(f"/runs/{run_id}/say", text="<b>", key="input")
    await until(lambda: _words(desk, run_id, "heard &lt;b&gt;"))
    assert (await desk.post(f"/runs/{run_id}/interrupt", text="now")).status_code == 303
    await desk.post(f"/runs/{run_id}/cancel")
    await desk.client.await_run(run_id)
    assert await status() is RunStatus.CANCELLED
    steps = [each async for each in desk.client.list_checkpoints(run_id)]
    forked = await desk.post(f"/runs/{run_id}/fork", position=str(steps[0].position))
    assert forked.headers["location"] != f"/runs/{run_id}", await desk.page(f"/runs/{run_id}")
    await desk.page(forked.headers["location"])
    await desk.post(f"/runs/{run_id}/retry")
    assert not (await status()).is_ended
    assert (await desk.post(f"/runs/{run_id}/explode")).status_code == 404
    refused = await desk.post("/runs/00000000-0000-4000-8000-000000000000/cancel", back="/runs")
    assert refused.headers["location"] == "/runs"
    assert 'class="flash bad"' in await desk.page("/runs")


async def _words(desk: Desk, run_id: str, text: str) -> bool:
    return text in await stream(desk, f"/runs/{run_id}/live?talk=1", text)


async def stream(desk: Desk, path: str, until_text: str) -> str:
    """Read a stream of the console until a text comes."""
    heard = ""
    async with asyncio.timeout(60), desk.http.stream("GET", path) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for piece in answer.aiter_text():
            heard += piece
            if until_text in heard:
                break
    return heard


async def test_a_stream_that_is_opened_again_brings_all_there_is_once(desk: Desk) -> None:
    run_id = (await desk.client.invoke("greet", {"name": "Ada"})).run_id
    heard = [await stream(desk, f"/runs/{run_id}/live", "event: over") for _ in range(2)]
    for each in heard:
        assert _UNESCAPED.search(each) is None
        assert each.count("looking up Ada") == 2  # once as a word, once in the log
        numbers = [int(n) for n in re.findall(r'class="seq figure">(\d+)</span><time', each)]
        assert numbers == sorted(set(numbers))
        assert "ended" in each
    await desk.suite.processes["console"].kill()
    await until(lambda: _back(desk))
    assert "looking up Ada" in await stream(desk, f"/runs/{run_id}/live", "event: over")


async def _back(desk: Desk) -> bool:
    try:
        if (await desk.http.get("/healthz")).status_code != 200:
            return False
    except OSError:
        return False
    except Exception as error:  # noqa: BLE001 - httpx has many names for a server that is away
        return "connect" not in str(error).lower()
    return True


async def test_approvals_are_seen_decided_and_edited_with_a_reason(desk: Desk) -> None:
    runs = [await desk.client.invoke("ask", {"name": name}, user="ann") for name in ("one", "two", "three")]
    for name in ("one", "two", "three"):
        await desk.shows("/approvals?view=mine", f"Pay {name}")
    inbox = await desk.page("/approvals")
    assert harmless(inbox)
    gates = {}
    async for each in desk.client.approvals().list():
        gates[each.run_id] = each
    one, two, three = (gates[run.run_id].approval_id for run in runs)
    await desk.post(f"/approvals/{one}/decide", verdict="approve", reason=f"good {EVIL}")
    await desk.post(f"/approvals/{two}/decide", verdict="deny", reason="too much")
    assert "Approve as edited" in inbox
    wrong = await desk.post(
        f"/approvals/{three}/decide", verdict="edit", payload='{"cents": 5', reason="less", revision="7"
    )
    assert (wrong.status_code, "not JSON" in wrong.text) == (400, True)
    assert html.unescape(wrong.text).partition("</textarea>")[0].endswith('>{"cents": 5')
    assert 'name="reason" value="less"' in wrong.text
    assert 'name="revision" value="7"' in wrong.text  # what was typed is about the payload as it was seen
    assert (await desk.client.approvals().get(three)).status is ApprovalStatus.PENDING
    await desk.post(f"/approvals/{three}/decide", verdict="edit", payload='{"cents": 5}', revision="1")
    decided = [await desk.client.approvals().get(each) for each in (one, two, three)]
    assert [each.status.name for each in decided] == ["APPROVED", "DENIED", "APPROVED"]
    assert decided[0].by == ("uma",)
    assert decided[1].reason == "too much"
    assert decided[2].payload == {"cents": 5}
    assert harmless(await desk.page("/approvals?view=decided"))
    assert harmless(await desk.page(f"/approvals/{one}"))
    await desk.post(f"/approvals/{two}/decide", verdict="approve")
    assert 'class="flash bad"' in await desk.page("/approvals")
    heard = await stream(desk, "/approvals/live?view=all", "event: inbox")
    assert "Nothing waits for anybody" in heard + await desk.page("/approvals")


async def test_a_payload_that_is_shown_cut_is_not_offered_for_editing(desk: Desk) -> None:
    await desk.client.invoke("ask", {"name": "long", "times": 400})
    inbox = await desk.shows("/approvals", "Pay long")
    assert "<textarea" not in inbox
    assert "too long to be edited here" in inbox
    assert "data-approve" in inbox


async def test_a_command_line_to_copy_is_one_whatever_the_tenant_is_called(desk: Desk) -> None:
    tenant = "two words; $(reboot) 'n"
    await desk.post("/sign-in", tenant=tenant, user="uma")
    pages = {path: await desk.page(path) for path in ("/runs", "/batches", "/outbox")}
    async with Client(desk.suite.addresses["invoker"], tenant=tenant) as own:
        batch = await own.batches.create(BatchSpec(Invocation("greet")), [BatchInput({})])
    pages["/batches/…"] = await desk.page(f"/batches/{batch.batch_id}")
    for path, page in pages.items():
        lines = re.findall(r">(holdfast [^<]*--tenant[^<]*)<", page)
        assert lines, path
        assert all(tenant in shlex.split(html.unescape(line)) for line in lines), path


async def test_dead_letters_are_sent_again_or_given_up_and_breakers_closed(desk: Desk) -> None:
    away = Destination(
        "crm", "http://127.0.0.1:9/none", max_attempts=1, breaker_failures=1, breaker_reset_after=60
    )
    await desk.client.outbox.put_destination(away)
    await (await desk.client.invoke("report", {})).ended()
    page = await desk.shows("/outbox", ">open<")
    assert "crm" in page
    assert (await desk.post("/destinations/crm/reset")).status_code == 303
    effects = [each async for each in desk.client.outbox.list_effects()]
    effect = effects[0].effect_id
    assert harmless(await desk.page(f"/outbox/{effect}"))
    await desk.shows("/outbox?view=dead", effect)
    await desk.post(f"/outbox/{effect}/retry")
    await desk.shows("/outbox?view=dead", effect)
    await desk.post(f"/outbox/{effect}/discard", reason=EVIL)
    assert (await desk.client.outbox.get_effect(effect)).status is EffectStatus.DISCARDED


async def test_a_tenants_limits_are_shown_and_changed(desk: Desk) -> None:
    await (await desk.client.invoke("greet", {"name": "x"})).ended()
    assert "/tenants/default" in await desk.shows("/tenants", "/tenants/default")
    assert "Runs in flight at once" in await desk.page("/tenants/default")
    await desk.post("/tenants/default", max_in_flight="7", rate="2.5")
    tenant = await desk.client.tenants.get("default")
    assert (tenant.max_in_flight, tenant.rate) == (7, 2.5)
    refused = await desk.post("/tenants/default", max_in_flight="many")
    assert (refused.status_code, "must be a number" in refused.text) == (400, True)
    assert (await desk.post("/tenants/default", weight="-1")).status_code == 400
    await desk.client.tenants.set("default", retention={"batch": 7 * 86_400, "service": 5400})
    assert "kept: service 1 h 30 min, batch 7 d; others stay" in await desk.page("/tenants/default")


async def test_a_conversation_is_started_from_the_page(desk: Desk) -> None:
    wrong = await desk.post("/talk", intent="greet", payload="[1]")
    assert (wrong.status_code, "must be a JSON object" in wrong.text) == (400, True)
    nobody = await desk.post("/talk", intent=EVIL, payload="{}")
    assert (nobody.status_code, _UNESCAPED.search(nobody.text)) == (400, None)
    began = await desk.post("/talk", intent="listen", payload=json.dumps({"name": "Ada"}))
    path = began.headers["location"]
    assert path.endswith("?talk=1")
    run_id = path.removeprefix("/runs/").removesuffix("?talk=1")
    await desk.post(f"/runs/{run_id}/say", text="bye")
    run = await desk.client.await_run(run_id)
    assert (run.outcome is not None and run.outcome.result, run.user) == (["bye"], "uma")
    assert run.shape is not Shape.BATCH
