"""The command line creates schedules as people say times, and shows what becomes of them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.conftest import Ended, finish, start
from tests.invoker.stand import Invoker, invoker


@pytest.fixture
async def door(database_url: str) -> AsyncIterator[Invoker]:
    async with invoker(database_url, queue_unknown_intents=True) as one:
        yield one


async def schedules(door: Invoker, folder: Path, *arguments: str) -> Ended:
    process = await start("schedules", *arguments, folder=folder, HOLDFAST_ADDRESS=door.address)
    return await finish(process)


async def test_a_schedule_lives_on_the_command_line(door: Invoker, tmp_path: Path) -> None:
    made = await schedules(
        door, tmp_path, "create", "nightly", "count", "-d", '{"n": 3}', "--cron", "0 2 * * *",
        "--zone", "Europe/Berlin", "--overlap", "queue", "--catch-up", "1h", "--label", "team=ops",
        "-o", "json",
    )  # fmt: skip
    assert made.code == 0, made.err
    (one,) = made.json
    assert (one["name"], one["run"]["intent"], one["run"]["payload"]) == ("nightly", "count", {"n": 3})
    assert (one["timing"]["cron"], one["timing"]["zone"], one["overlap"]) == (
        "0 2 * * *",
        "Europe/Berlin",
        "QUEUE",
    )
    assert (one["catch_up"], one["labels"]) == (3600.0, {"team": "ops"})
    fired, paused = await asyncio.gather(
        schedules(door, tmp_path, "trigger", "nightly", "--key", "k", "-o", "json"),
        schedules(door, tmp_path, "pause", "nightly", "--reason", "holidays"),
    )
    assert fired.json[0]["result"] == "STARTED"
    assert "holidays" in paused.out
    listed, read, counted = await asyncio.gather(
        schedules(door, tmp_path, "list"),
        schedules(door, tmp_path, "get", "nightly"),
        schedules(
            door, tmp_path, "backfill", "nightly", "--from", "2026-03-01", "--to", "2026-03-04", "--dry-run"
        ),
    )
    assert "nightly" in listed.out
    assert "STARTED" in listed.out
    assert fired.json[0]["run_id"] in read.out
    assert "3 would fire." in counted.out
    changed = await schedules(door, tmp_path, "update", "nightly", "count", "--every", "15m", "-o", "json")
    assert (changed.json[0]["timing"]["every"], changed.json[0]["paused"]) == (900.0, True)
    resumed = await schedules(door, tmp_path, "resume", "nightly", "-o", "json")
    assert resumed.json[0]["next_time"]
    assert (await schedules(door, tmp_path, "delete", "nightly")).out == "nightly is deleted.\n"
    assert (await schedules(door, tmp_path, "list")).out == "No schedules.\n"


async def test_a_preview_shows_the_clock_there(door: Invoker, tmp_path: Path) -> None:
    told = await schedules(
        door, tmp_path, "preview", "--cron", "30 2 * * *", "--zone", "Europe/Berlin",
        "--after", "2026-03-28T12:00Z", "--count", "2",
    )  # fmt: skip
    _, first, second = told.out.splitlines()
    assert "2026-03-29 01:00:00" in first
    assert "Sun 2026-03-29 03:00:00 CEST" in first
    assert "02:30:00 CEST" in second


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("create", "a", "count"), 2, "one of --cron, --every and --at"),
        (("create", "a", "count", "--every", "1h", "--zone", "UTC"), 2, "beside --cron only"),
        (("create", "a", "count", "--at", "tomorrow"), 2, "is not a time"),
        (
            ("create", "a", "count", "--cron", "0 25 * * *"),
            3,
            "schedule.timing.cron.expression is malformed: bad hour.",
        ),
        (("create", "a", "count", "--every", "10ms"), 3, "must be from 1 s"),
        (("preview", "a", "--every", "1h"), 2, "not both"),
        (("get", "nobody"), 3, "SCHEDULE_NOT_FOUND"),
    ],
)
async def test_what_cannot_be_is_one_sentence(
    door: Invoker, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    told = await schedules(door, tmp_path, *arguments)
    assert (told.code, told.out) == (code, ""), told.err
    assert said in told.err
    assert "Traceback" not in told.err
