"""Schedules are set up, read, changed, held, fired and deleted from pages, whatever their names hold."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.client import (
    ApplyEffect,
    BatchSource,
    BatchSpec,
    Budget,
    Destination,
    FollowUp,
    Invocation,
    OverlapPolicy,
    ReviewPolicy,
    Schedule,
    Timing,
)
from holdfast.client.errors import ScheduleNotFound
from holdfast.console.entry import MARKED, Mistyped, duration, seconds
from holdfast.console.schedule_form import EMPTY, fields_of, schedule_of
from tests.console.agents import EVIL
from tests.console.browser import Browser
from tests.console.conftest import Desk
from tests.console.test_browser import said
from tests.console.test_page import harmless
from tests.kit.until import until
from tests.support.item_source import declare, fill

NAME = f"nightly / {EVIL[:60]}"


def of(name: str) -> str:
    return f"/schedules/of?{urlencode({'name': name})}"


async def test_a_schedule_is_set_up_changed_held_fired_and_deleted(desk: Desk) -> None:
    assert "Nothing starts by itself yet" in await desk.page("/schedules")
    typed = {
        **EMPTY,
        "name": NAME,
        "intent": "greet",
        "payload": '{"name": "Ada"}',
        "labels": f"team={EVIL[:20]}",
    }
    typed |= {
        "zone": "Europe/Berlin",
        "cron": "30 2 * * *",
        "jitter": "1m",
        "run_labels": 'by=clock, "of=ann, bob"',
    }
    for wrong, field, word in (
        ({"payload": "{"}, "payload", "not JSON"),
        ({"cron": "61 * * * *"}, "cron", "minute"),
        ({"labels": "nothing"}, "labels", "name=value"),
        ({"intent": ""}, "intent", "which intent"),
        ({"kind": "every", "every": "often"}, "every", "must be a duration"),
        ({"kind": "at", "at": ""}, "at", "at what time"),
        ({"intent": "nobody"}, "intent", "nobody"),
    ):
        refused = await desk.post("/schedules", **{**typed, **wrong})
        assert refused.status_code == 400, (wrong, refused.headers)
        assert word in flaw(refused.text, field), (wrong, refused.text)
        assert MARKED in refused.text.partition('role="alert"')[2][:400]
    made = await desk.post("/schedules", **typed)
    assert (made.status_code, made.headers["location"]) == (303, of(NAME))
    page = await desk.page(of(NAME))
    assert harmless(page + EVIL.replace("<", "&lt;"))
    assert "Europe/Berlin" in page
    assert page.count("UTC</span>") == 8
    schedule = await desk.client.schedules.get(NAME)
    assert (schedule.invocation.user, schedule.invocation.labels) == (
        "uma",
        {"by": "clock", "of": "ann, bob"},
    )
    await desk.post("/schedules/do/pause", name=NAME, reason="<b>audit")
    assert "&lt;b&gt;audit" in await desk.page(of(NAME))
    assert NAME[:9] in await desk.page("/schedules?view=paused")
    assert NAME[:9] not in await desk.page("/schedules?view=active")
    await desk.post("/schedules/do/trigger", name=NAME)
    assert "It has fired." in await desk.page(of(NAME))

    async def ended() -> bool:
        return any([run.run_id async for run in desk.client.list_runs(labels={"by": "clock"})])

    await until(ended)
    assert "/runs/" in await desk.page(of(NAME))
    await desk.post("/schedules/do/resume", name=NAME)
    edited = fields_of(await desk.client.schedules.get(NAME))
    changed = await desk.post(
        "/schedules/edit", **{**edited, "kind": "every", "every": "2h", "overlap": "QUEUE"}
    )
    assert changed.headers["location"] == of(NAME)
    schedule = await desk.client.schedules.get(NAME)
    assert (schedule.timing.every, schedule.overlap, schedule.invocation.user) == (
        7200.0,
        OverlapPolicy.QUEUE,
        "uma",
    )
    begin = datetime.now(UTC) - timedelta(hours=9)
    span = {"from": begin.strftime("%Y-%m-%dT%H:%M"), "until": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M")}
    await desk.post("/schedules/do/backfill", name=NAME, only="count", **span)
    assert "nothing has happened yet" in await desk.page(of(NAME))
    await desk.post("/schedules/do/backfill", name=NAME, only="", **span)
    assert "It makes up for" in await desk.page(of(NAME))
    await desk.post("/schedules/do/backfill", name=NAME, only="", **{**span, "from": ""})
    assert 'class="flash bad"' in await desk.page(of(NAME))
    assert (await desk.post("/schedules/do/explode", name=NAME)).status_code == 404
    await desk.post("/schedules/do/delete", name=NAME)
    assert "is deleted" in await desk.page("/schedules")
    with pytest.raises(ScheduleNotFound):
        await desk.client.schedules.get(NAME)
    assert (await desk.http.get(of(NAME))).status_code == 404


async def test_a_trigger_that_is_sent_twice_fires_once_and_that_of_a_later_page_again(
    desk: Desk,
) -> None:
    await desk.client.schedules.create(Schedule(NAME, Timing(cron="0 2 * * *"), Invocation("greet")))

    async def fires() -> int:
        return len((await desk.client.schedules.get(NAME)).recent_fires)

    async def once() -> str:
        found = re.search(r'name="once" value="([^"]+)"', await desk.page(of(NAME)))
        assert found is not None
        return found[1]

    for expected in (1, 2):
        sent = {"name": NAME, "once": await once()}
        await desk.post("/schedules/do/trigger", **sent)
        await desk.post("/schedules/do/trigger", **sent)
        assert await fires() == expected


@pytest.fixture
async def accounts(empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that the Invokers know."""
    await fill(empty_database_url)
    for name, value in declare(tmp_path, empty_database_url).items():
        monkeypatch.setenv(f"HOLDFAST_{name.upper()}", str(value))


@pytest.mark.usefixtures("accounts")
async def test_a_schedule_of_batches_is_set_up_shown_fired_and_changed(desk: Desk) -> None:
    typed = {**EMPTY, "name": NAME, "starts": "batch", "intent": "greet", "source": "accounts"}
    typed |= {"parameters": "region=emea", "parallelism": "7", "max_share": "5 %", "label_field": "hello"}
    typed |= {"destination": "crm", "accept_share": "0.98", "of_judged": "20", "batch_labels": "by=clock"}
    for wrong, field, word in (
        ({"source": ""}, "source", "nobody is there to send them"),
        ({"parameters": "emea"}, "parameters", "name=value"),
        ({"source": "elsewhere"}, "source", "no source declared"),
        ({"parameters": ""}, "parameters", "must be given"),
        ({"parallelism": "-1"}, "parallelism", "whole number"),
        ({"parallelism": "99999"}, "parallelism", "from 0 to 10,000"),
        ({"max_share": "2"}, "max_share", "a share"),
        ({"accept_share": "", "apply_when_met": "on"}, "apply_when_met", "min_accepted_share"),
        ({"reviewer": "nobody"}, "reviewer", "nobody"),
        ({"follow_up": "greet"}, "follow_up", "not to both"),
        ({"destination": "", "undo_destination": "crm"}, "destination", "which destination"),
        ({"intent": "nobody"}, "intent", "nobody"),
        ({"payload": "["}, "payload", "not JSON"),
        ({"cron": "0 25 * * *"}, "cron", "hour"),
    ):
        refused = await desk.post("/schedules", **{**typed, **wrong})
        assert refused.status_code == 400, (wrong, refused.headers)
        assert word in flaw(refused.text, field), (wrong, refused.text)
        kept = re.search('name="display_name" value="([^"]*)"', refused.text)
        assert kept is not None
        assert 'value="batch" checked' in refused.text, "what was typed is there"
        assert 'name="label_field" value="hello"' in refused.text
    two = await desk.post("/schedules", **{**typed, "parallelism": "x", "max_share": "y"})
    assert flaw(two.text, "parallelism")
    assert flaw(two.text, "max_share")
    await desk.client.outbox.put_destination(Destination("crm", "http://127.0.0.1:1"))
    made = await desk.post("/schedules", **typed)
    assert made.headers["location"] == of(NAME), made.text
    batch = (await desk.client.schedules.get(NAME)).batch
    assert batch == BatchSpec(
        Invocation("greet", payload={}, user="uma"),
        source=BatchSource("accounts", {"region": "emea"}),
        max_parallelism=7,
        tolerated_share=0.05,
        label_field="hello",
        labels={"by": "clock"},
        review=ReviewPolicy(0.98, 20),
        apply=ApplyEffect("crm"),
    )
    assert "a batch over greet" in await desk.page("/schedules")
    page = await desk.page(of(NAME))
    assert harmless(page + EVIL.replace("<", "&lt;"))
    assert "the source <strong>accounts</strong>" in page
    edit = await desk.page(f"/schedules/edit?{urlencode({'name': NAME})}")
    assert 'name="parameters" value="region=emea"' in edit
    await desk.post("/schedules/do/trigger", name=NAME)
    assert "/batches/" in await desk.page(of(NAME))
    changed = await desk.post(
        "/schedules/edit", **{**fields_of(await desk.client.schedules.get(NAME)), "starts": "run"}
    )
    assert changed.headers["location"] == of(NAME)
    schedule = await desk.client.schedules.get(NAME)
    assert (schedule.batch, schedule.run) == (None, batch.invocation)


def flaw(page: str, field: str) -> str:
    """Return what a form says at one of its fields."""
    found = re.search(f'id="flaw-{field}">([^<]*)<', page)
    assert found is None or f'aria-describedby="flaw-{field}"' in page
    return found[1] if found else ""


async def test_the_form_shows_the_next_times_while_somebody_types(desk: Desk, chromium: Browser) -> None:
    await chromium.open(desk.url + "/schedules/new")
    await chromium.until("document.querySelectorAll('#preview li').length === 5")
    await chromium.run(
        "const cron = document.querySelector('[name=cron]'); cron.value = 'never';"
        "cron.dispatchEvent(new Event('input', { bubbles: true }))"
    )
    await chromium.until("document.querySelector('#preview .bad')")
    await chromium.run("document.querySelector('[value=every]').click()")
    await chromium.until("document.querySelectorAll('#preview li').length === 5")
    assert await chromium.run("document.querySelector('[name=cron]').offsetParent === null")
    await chromium.run(
        "document.querySelector('[name=name]').value = 'often';"
        "document.querySelector('[name=intent]').value = 'greet';"
        "document.querySelector('main form .primary').click()"
    )
    await chromium.until(said("is set up"))
    assert (await desk.client.schedules.get("often")).timing.every == 900.0
    assert chromium.complaints == []


_TIMES = st.integers(946_684_800, 4_102_444_800).map(lambda each: datetime.fromtimestamp(each, UTC))


@given(
    st.one_of(
        st.builds(Timing, cron=st.just("0 2 * * *"), zone=st.sampled_from(["", "Europe/Berlin"])),
        st.builds(Timing, every=st.integers(1, 10**6).map(float), anchor=st.one_of(st.none(), _TIMES)),
        st.builds(Timing, at=_TIMES, start=_TIMES, jitter=st.integers(0, 99).map(float)),
    ),
    st.sampled_from([OverlapPolicy.SKIP, OverlapPolicy.QUEUE]),
    st.one_of(st.none(), st.integers(1, 10**5).map(float)),
)
def test_a_schedule_that_is_opened_and_saved_is_the_same(
    timing: Timing, overlap: OverlapPolicy, catch_up: float | None
) -> None:
    run = Invocation(
        "i", {"a": [1, "é"]}, user="ann", priority=3, session_id="s", labels={"x": "y", "z": '1, "2"'}
    )
    schedule = Schedule("n", timing, run, overlap, catch_up, {"k": "v"})
    assert schedule_of(fields_of(schedule), schedule) == schedule


_COUNTS = st.integers(0, 1000)
_SHARES = st.floats(0, 1)
RUN = Invocation("f", payload={"a": 1}, priority=2)
_TARGETS = st.sampled_from(
    [None, ApplyEffect("crm"), ApplyEffect("crm", "undo"), FollowUp(RUN), FollowUp(RUN, RUN)]
)


@given(st.data())
def test_a_schedule_of_batches_that_is_opened_and_saved_is_the_same(data: st.DataObject) -> None:
    run = Invocation("i", {"a": [1, "é"]}, budget=Budget(max_steps=3), user="ann", labels={"x": "y"})
    policies = st.builds(ReviewPolicy, _SHARES, _COUNTS, st.sampled_from(["", "judge"]), st.booleans())
    batch = BatchSpec(
        run,
        display_name="b",
        skip_staging=data.draw(st.booleans()),
        max_parallelism=data.draw(_COUNTS),
        in_order=data.draw(st.booleans()),
        max_attempts=data.draw(_COUNTS),
        initial_backoff=1.5,
        max_backoff=2.5,
        tolerated_items=data.draw(_COUNTS),
        tolerated_share=data.draw(_SHARES),
        label_field="l",
        confidence_field="c",
        labels={"q": '1, "2"'},
        start_when_uploaded=data.draw(st.booleans()),
        review=data.draw(st.one_of(st.none(), policies)),
        apply=data.draw(_TARGETS),
        source=BatchSource("s", {"region": "a, b"}),
    )
    schedule = Schedule("n", Timing(every=60.0), batch=batch, overlap=OverlapPolicy.SKIP)
    assert schedule_of(fields_of(schedule), schedule) == schedule


@pytest.mark.parametrize("text", ["", "x", "-1s", "5 parsecs", "inf", "nan", "1e999s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(Mistyped):
        seconds(text, "Every")


@given(st.one_of(st.integers(0, 10**9), st.integers(0, 10**15).map(lambda us: us / 10**6)))
def test_durations_read_as_they_are_written(value: float) -> None:
    text = duration(float(value))
    assert seconds(text, "x") == value
    assert "e" not in text


def test_durations_are_written_in_their_largest_unit() -> None:
    values = (0.5, 1.0, 90.0, 900.0, 7200.0, 86_400.0, 5400.0, 1_000_001.0)
    assert [duration(each) for each in values] == ["0.5s", "1s", "90s", "15m", "2h", "1d", "90m", "1000001s"]
    assert (seconds("2 h", "x"), seconds("15min", "x"), seconds("7", "x")) == (7200.0, 900.0, 7.0)
