"""A batch is sent from a page as a file, whole or not at all, and an upload that broke off goes on."""

import json
import re
from collections.abc import AsyncIterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from holdfast.client import (
    Batch,
    BatchSpec,
    BatchStatus,
    Destination,
    Invocation,
    ItemFile,
)
from holdfast.client.wire_batch import chunks, spec_message
from holdfast.console.entry import MARKED
from holdfast.v1 import batch_service_pb2 as pb
from holdfast.v1.batch_service_pb2_grpc import BatchServiceStub
from tests.console.agents import EVIL
from tests.console.browser import Browser
from tests.console.conftest import Desk
from tests.console.test_browser import said
from tests.console.test_page import harmless
from tests.console.test_schedule_page import flaw
from tests.support.item_source import declare, fill

LINES = b"".join(
    json.dumps({"key": f"k{n}", "payload": {"name": f"n{n}"}, "current": {"x": n}}).encode() + b"\n"
    for n in range(2500)
)
KEPT = {"payload": "{}", "parallelism": "9", "label_field": "hello", "display_name": f"B {EVIL}"}


async def send(
    desk: Desk, path: str, content: bytes, name: str = "items.jsonl", **fields: str
) -> httpx.Response:
    """Send a form with a file as its page would."""
    form = {"csrf": await desk.csrf(), **fields}
    return await desk.http.post(
        path,
        data=form,
        files={"file": (name, content)} if name else {"file": ("", b"")},
        headers={"origin": desk.url},
    )


async def batch_at(desk: Desk, answer: httpx.Response) -> Batch:
    assert answer.status_code == 303, answer.text
    batch_id = answer.headers["location"].removeprefix("/batches/")
    return (await desk.client.batches.get(batch_id))[0]


async def test_a_file_becomes_a_batch_once_however_often_its_form_is_sent(desk: Desk) -> None:
    assert 'href="/batches/new"' in await desk.page("/batches")
    page = await desk.page("/batches/new")
    once = re.search('name="once" value="([^"]+)"', page)
    assert once is not None
    await desk.client.outbox.put_destination(Destination("crm", "http://127.0.0.1:1"))
    form = {**KEPT, "intent": "greet", "once": once[1], "destination": "crm"}
    batch = await batch_at(desk, await send(desk, "/batches/new", LINES, **form))
    assert (batch.status, batch.uploaded_items, batch.max_parallelism) == (BatchStatus.READY, 2500, 9)
    assert "2\u202f500 items are here." in await desk.page(f"/batches/{batch.batch_id}")
    again = await batch_at(desk, await send(desk, "/batches/new", LINES, **form))
    assert again.batch_id == batch.batch_id
    assert harmless(await desk.page("/batches"))
    (item,) = [each async for each in desk.client.batches.items(batch.batch_id, keys=["k7"])]
    assert (item.payload, item.current, item.index) == ({"name": "n7"}, {"x": 7}, 7)
    begun = await send(
        desk, "/batches/new", b"id,name\n1,a\n2,b\n", "A.CSV", intent="greet", key="id", begin="on"
    )
    batch = await batch_at(desk, begun)
    keys = [each.key async for each in desk.client.batches.items(batch.batch_id)]
    assert (keys, batch.status) == (["1", "2"], BatchStatus.RUNNING)


async def test_a_mistake_makes_nothing_and_is_said_where_it_is(desk: Desk) -> None:
    for content, name, fields, field, word in (
        (b"", "", {}, "file", "Choose a file"),
        (b"", "empty.jsonl", {}, "file", "no item"),
        (LINES + b"{nonsense\n", "i.jsonl", {}, "file", "Line 2501 is not JSON"),
        (b"[1]\n", "i.jsonl", {}, "file", "not a JSON object"),
        (b"id\n1\n1\n", "i.csv", {"key": "id"}, "file", "there twice"),
        (b"id\n1\n", "i.csv", {"key": "no"}, "file", "has no"),
        (b"id\n\xff\n", "i.csv", {}, "file", "UTF-8"),
        (LINES, "i.jsonl", {"source": "also"}, "source", "not from both"),
        (LINES, "i.jsonl", {"intent": ""}, "intent", "which intent"),
        (LINES, "i.jsonl", {"intent": "nobody"}, "intent", "nobody"),
        (LINES, "i.jsonl", {"destination": "gone"}, "destination", "no destination"),
        (LINES, "i.jsonl", {"payload": "["}, "payload", "not JSON"),
        (LINES, "i.jsonl", {"attempts": "1000"}, "attempts", "from 1 to 100"),
    ):
        given = {**KEPT, "intent": "greet", **fields}
        refused = await send(desk, "/batches/new", content, name, **given)
        assert refused.status_code == 400, (fields, refused.headers)
        assert word in flaw(refused.text, field), (fields, refused.text)
        assert MARKED in refused.text
        assert 'name="label_field" value="hello"' in refused.text, "what was typed is there"
        assert harmless(refused.text)
    assert not [each async for each in desk.client.batches.list()]


async def test_an_upload_that_broke_off_goes_on_with_the_same_file(desk: Desk) -> None:
    first = islice(ItemFile(BytesIO(LINES), is_csv=False), 1500)
    async with grpc.aio.insecure_channel(desk.suite.addresses["invoker"]) as channel:
        sent = [pb.CreateBatchRequest(spec=spec_message(BatchSpec(Invocation("greet"))))]
        sent += [pb.CreateBatchRequest(chunk=chunk) for chunk in chunks(first, 0)]
        await BatchServiceStub(channel).CreateBatch(iter(sent))
    (begun,) = [each async for each in desk.client.batches.list()]
    here = f"/batches/{begun.batch_id}"
    assert begun.uploaded_items == 1500
    assert "The rest of its items" in await desk.page(here)
    await send(desk, f"{here}/items", b"{}\n")
    assert "it is another file" in await desk.page(here)
    await send(desk, f"{here}/items", b"", "")
    assert "Choose the file" in await desk.page(here)
    await send(desk, f"{here}/items", LINES)
    page = await desk.page(here)
    assert "2\u202f500 items are here." in page
    assert "The rest of its items" not in page
    assert [each.key async for each in desk.client.batches.items(begun.batch_id, keys=["k2499"])] == ["k2499"]


@pytest.fixture
async def accounts(empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that the Invokers know."""
    await fill(empty_database_url, ("1", "a"))
    for name, value in declare(tmp_path, empty_database_url).items():
        monkeypatch.setenv(f"HOLDFAST_{name.upper()}", str(value))


@pytest.mark.usefixtures("accounts")
async def test_a_batch_may_read_its_items_from_a_source_and_says_that_it_cannot(desk: Desk) -> None:
    form = {**KEPT, "intent": "greet", "source": "nowhere"}
    batch = await batch_at(desk, await send(desk, "/batches/new", b"", "", **form))
    here = f"/batches/{batch.batch_id}"
    assert "its source is read" in await desk.page(here)
    page = await desk.shows(here, "Its source cannot be read")
    assert "The rest of its items" not in page


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """Files are small here."""
    monkeypatch.setenv("HOLDFAST_CONSOLE_UPLOAD_BYTES", "500000")
    return 500_000


async def test_a_file_is_taken_only_with_the_token_from_here_and_up_to_its_size(
    small: int, desk: Desk
) -> None:
    token, own = await desk.csrf(), {"origin": desk.url}
    sent: dict[str, Any] = {"files": {"file": ("i.jsonl", LINES)}}
    foreign = {"origin": "http://evil.example"}
    refused = [
        await desk.http.post("/batches/new", data={"csrf": "guess"}, headers=own, **sent),
        await desk.http.post("/batches/new", headers=own, **sent),
        await desk.http.post("/batches/new", data={"csrf": token}, headers=foreign, **sent),
        await desk.http.post("/batches/new", data={"csrf": token}, **sent),
        await desk.http.post("/talk", data={"csrf": token, "intent": "greet"}, headers=own, **sent),
    ]
    assert [answer.status_code for answer in refused] == [403] * 5
    async with httpx.AsyncClient(base_url=desk.url) as stranger:
        answer = await stranger.post("/batches/new", data={"csrf": ""}, headers=own, **sent)
        assert answer.status_code == 403
    head = {**own, "content-type": "multipart/form-data; boundary=x"}
    assert (await desk.http.post("/batches/new", content=b"--y\r\n", headers=head)).status_code == 400
    large = LINES * (2 + (small + 2**20) // len(LINES))
    assert (await send(desk, "/batches/new", large, intent="greet")).status_code == 413
    form = httpx.Request("POST", desk.url, data={"csrf": token}, files={"file": ("i.jsonl", large)})
    unsaid = {**own, "content-type": form.headers["content-type"]}
    body = form.read()

    async def without_a_length() -> AsyncIterator[bytes]:
        yield body

    answer = await desk.http.post("/batches/new", content=without_a_length(), headers=unsaid)
    assert (answer.status_code, "larger than" in answer.text) == (400, True)
    assert not [each async for each in desk.client.batches.list()]


async def test_a_file_is_chosen_and_sent_in_a_browser(desk: Desk, chromium: Browser, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_bytes(LINES)

    async def choose() -> None:
        await chromium.until("document.readyState === 'complete'")  # the script listens
        page = await chromium.call("DOM.getDocument")
        field = await chromium.call(
            "DOM.querySelector", nodeId=page["root"]["nodeId"], selector="[type=file]"
        )
        await chromium.call("DOM.setFileInputFiles", files=[str(file)], nodeId=field["nodeId"])
        said_of_it = await chromium.run(
            "(() => { const button = document.querySelector('main form .primary'); button.click();"
            " return [button.textContent, button.disabled] })()"
        )
        assert said_of_it == ["Sending the items …", True]

    await chromium.open(desk.url + "/batches/new?intent=greet")
    await chromium.run("document.querySelector('[name=parallelism]').value = 'many'")
    await choose()
    await chromium.until("document.querySelector('#flaw-parallelism')")
    assert await chromium.run("document.activeElement.name") == "parallelism"
    await chromium.run("document.querySelector('[name=parallelism]').value = '5'")
    await choose()
    await chromium.until(said("items are here"))
    assert await chromium.run("location.pathname.startsWith('/batches/')")
    assert [each for each in chromium.complaints if "400" not in each] == []


async def test_a_destination_is_set_up_and_changed(desk: Desk) -> None:
    assert "/destinations/edit" in await desk.page("/outbox")
    typed = {
        "new": "yes",
        "name": f"crm {EVIL[:20]}",
        "url": "http://127.0.0.1:1/tag",
        "max_per_second": "7.5",
    }
    for wrong, field, word in (
        ({"name": ""}, "name", "has a name"),
        ({"url": ""}, "url", "where"),
        ({"url": "ftp://x"}, "url", "not https"),
        ({"timeout": "soon"}, "timeout", "a duration"),
        ({"max_concurrent": "x"}, "max_concurrent", "whole number"),
    ):
        refused = await desk.post("/destinations", **{**typed, **wrong})
        assert refused.status_code == 400, wrong
        assert word in flaw(refused.text, field), (wrong, refused.text)
    assert (await desk.post("/destinations", **typed)).headers["location"] == "/outbox"
    assert harmless(await desk.page("/outbox"))
    (made,) = [each async for each in desk.client.outbox.list_destinations()]
    assert made.max_per_second == 7.5
    assert "already" in flaw((await desk.post("/destinations", **typed)).text, "name")
    await desk.client.outbox.put_destination(Destination(made.name, made.url, headers={"x": "y"}))
    await desk.post("/destinations", name=made.name, url="http://127.0.0.1:1/other", timeout="3s")
    (changed,) = [each async for each in desk.client.outbox.list_destinations()]
    assert (changed.url, changed.timeout, changed.headers) == ("http://127.0.0.1:1/other", 3.0, {"x": "y"})
