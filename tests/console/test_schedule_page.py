"""Schedules are set up, read, changed, held, fired and deleted from pages, whatever their names hold."""

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.client import Invocation, OverlapPolicy, Schedule, Timing
from holdfast.client.errors import ScheduleNotFound
from holdfast.console.entry import Mistyped, duration, seconds
from holdfast.console.schedule_form import EMPTY, fields_of, schedule_of
from tests.console.agents import EVIL
from tests.console.browser import Browser
from tests.console.conftest import Desk
from tests.console.test_browser import said
from tests.console.test_page import harmless
from tests.kit.until import until

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
    for wrong, word in (
        ({"payload": "{"}, "not JSON"),
        ({"cron": "61 * * * *"}, "cron"),
        ({"labels": "nothing"}, "name=value"),
        ({"intent": ""}, "an intent"),
        ({"kind": "every", "every": "often"}, "must be a duration"),
        ({"kind": "at", "at": ""}, "at what time"),
        ({"intent": "nobody"}, "nobody"),
    ):
        refused = await desk.post("/schedules", **{**typed, **wrong})
        assert refused.status_code == 400, (wrong, refused.headers)
        assert word in refused.text.partition('role="alert"')[2][:400], (wrong, refused.text)
    made = await desk.post("/schedules", **typed)
    assert (made.status_code, made.headers["location"]) == (303, of(NAME))
    page = await desk.page(of(NAME))
    assert harmless(page + EVIL.replace("<", "&lt;"))
    assert "Europe/Berlin" in page
    assert page.count("UTC</span>") == 8
    schedule = await desk.client.schedules.get(NAME)
    assert (schedule.run.user, schedule.run.labels) == ("uma", {"by": "clock", "of": "ann, bob"})
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
    assert (schedule.timing.every, schedule.overlap, schedule.run.user) == (
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
