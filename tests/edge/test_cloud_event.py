"""CloudEvents in each of their forms are the same event, and source and id together are what makes it one."""

import base64
import json
from typing import Any

import pytest

from tests.edge.conftest import DECLARED, Edge, edge
from tests.invoker.stand import Invoker

EVENT = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.made", "data": {"n": 1}}
ONE = "application/cloudevents+json; charset=utf-8"
BATCH = "application/cloudevents-batch+json"
BINARY = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "/shop", "ce_type": "order.made"}


async def post(hooks: Edge, event: Any, content_type: str = ONE) -> Any:
    return await hooks.post("/ce", json.dumps(event).encode(), content_type=content_type)


async def test_one_event_in_three_forms_is_one_run(hooks: Edge) -> None:
    answers = [
        await post(hooks, EVENT),
        await hooks.post("/ce", b'{"n": 1}', **BINARY),
        await post(hooks, [EVENT], BATCH),
    ]
    assert [answer.status_code for answer in answers] == [202] * 3
    assert [answer.json()["duplicates"] for answer in answers] == [0, 1, 1]
    assert await hooks.runs() == ["ce//shop 1"]


async def test_an_id_is_its_sources_own(hooks: Edge) -> None:
    batch = [EVENT, EVENT | {"source": "/other"}, EVENT | {"id": "2"}, EVENT]
    told = (await post(hooks, batch, BATCH)).json()
    assert (told["accepted"], told["duplicates"], len(told["run_ids"])) == (3, 1, 4)
    assert await hooks.runs() == ["ce//shop 1", "ce//other 1", "ce//shop 2"]
    assert (await post(hooks, [], BATCH)).status_code == 202


async def test_a_batch_of_which_one_is_malformed_leaves_no_trace_and_says_which(hooks: Edge) -> None:
    answer = await post(hooks, [EVENT, EVENT | {"id": ""}], BATCH)
    assert (answer.status_code, answer.json()["field"]) == (400, "[1].id")
    assert await hooks.runs() == []


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ([EVENT], "body"),
        (EVENT | {"specversion": "0.3"}, "specversion"),
        (EVENT | {"source": "a b"}, "source"),
        (EVENT | {"id": 1}, "id"),
        ({k: v for k, v in EVENT.items() if k != "type"}, "type"),
        (EVENT | {"data": None}, "body"),
        (EVENT | {"data_base64": "?"}, "data_base64"),
    ],
)
async def test_what_is_no_cloud_event_is_refused_naming_what_is_wrong(
    hooks: Edge, event: Any, field: str
) -> None:
    answer = await post(hooks, event)
    assert (answer.status_code, answer.json().get("field")) == (400, field)
    assert await hooks.runs() == []


async def test_what_is_neither_form_is_refused(hooks: Edge) -> None:
    assert (await hooks.post("/ce", b"{}")).status_code == 415
    assert (await post(hooks, EVENT, BATCH)).status_code == 400
    assert (await hooks.post("/ce", b"{}", **BINARY | {"ce_extra_name": "x"})).status_code == 400


@pytest.mark.parametrize("attribute", ["ce_id", "ce_subject"])
async def test_an_attribute_with_a_nul_is_refused(hooks: Edge, attribute: str) -> None:
    answer = await hooks.post("/ce", b"{}", **BINARY | {attribute: "a%00b"})
    told = (400, "The event has a NUL character in an attribute.")
    assert (answer.status_code, answer.json()["error"]) == told
    assert await hooks.runs() == []


async def test_the_whole_event_or_its_data_is_the_payload_as_declared(door: Invoker) -> None:
    more = {"payload": "event", "labels": {"type": "event.type"}, "ordering_key": "event.subject"}
    declared = {"whole": DECLARED["ce"] | more, "data": DECLARED["ce"] | {"path": "/data"}}
    async with edge(door, declared) as hooks:
        coded = base64.b64encode(b'{"n": 3}').decode()
        event = {k: v for k, v in EVENT.items() if k != "data"} | {"data_base64": coded, "subject": "o/1"}
        await post(hooks, event)
        text = BINARY | {"ce_id": "2", "ce_subject": "gr%C3%BC%C3%9Fe", "content_type": "text/plain"}
        await hooks.post("/ce", b"hello", **text)
        await hooks.post("/data", json.dumps(event).encode(), content_type=ONE)
        found = [await door.run(str(run_id)) for run_id in await hooks.runs("run_id")]
    assert (found[0].ordering_key, found[0].labels["type"]) == ("o/1", "order.made")
    assert found[0].payload["data_base64"] == coded
    assert found[1].ordering_key == "grüße"
    assert base64.b64decode(found[1].payload["data_base64"]) == b"hello"
    assert found[1].payload["datacontenttype"] == "text/plain"
    assert dict(found[2].payload) == {"n": 3}
