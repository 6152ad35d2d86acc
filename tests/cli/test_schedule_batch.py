"""The command line lets schedules start batches, and batches read the operator's sources."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.conftest import Ended, finish, start
from tests.invoker.stand import Invoker, invoker
from tests.kit.until import until
from tests.support.item_source import declare, fill
from tests.support.ledger import fetch

HOURLY = ("schedules", "create", "a", "count", "--every", "1h")
SOURCE = ("--batch", "accounts", "--param", "region=emea")


@pytest.fixture
async def door(database_url: str, empty_database_url: str, tmp_path: Path) -> AsyncIterator[Invoker]:
    await fill(empty_database_url, ("1", "one"), ("2", "two"))
    told = declare(tmp_path, empty_database_url)
    async with invoker(database_url, queue_unknown_intents=True, **told) as one:
        yield one


async def typed(door: Invoker, folder: Path, *arguments: str) -> Ended:
    return await finish(await start(*arguments, folder=folder, HOLDFAST_ADDRESS=door.address))


async def test_a_schedule_of_batches_lives_on_the_command_line(door: Invoker, tmp_path: Path) -> None:
    made = await typed(
        door, tmp_path, "schedules", "create", "nightly", "count", "--cron", "0 2 * * *", *SOURCE,
        "--parallelism", "7", "--label-field", "industry", "-d", '{"n": 3}', "-o", "json",
        "--apply-run", "write", "--undo-run", "erase",
    )  # fmt: skip
    assert made.code == 0, made.err
    (one,) = made.json
    assert (one["run"], one["batch"]["source"]) == (
        None,
        {"source": "accounts", "parameters": {"region": "emea"}},
    )
    assert (one["batch"]["max_parallelism"], one["batch"]["label_field"]) == (7, "industry")
    assert one["batch"]["invocation"]["payload"] == {"n": 3}
    apply = one["batch"]["apply"]
    assert (apply["run"]["intent"], apply["undo"]["intent"]) == ("write", "erase")
    (fire,) = (await typed(door, tmp_path, "schedules", "trigger", "nightly", "-o", "json")).json
    assert (fire["result"], fire["run_id"]) == ("STARTED", "")

    async def read_whole() -> bool:
        return [row["status"] for row in await fetch(door.parts.db, "SELECT status FROM batch")] == [3]

    await until(read_whole)
    listed = await typed(door, tmp_path, "schedules", "list")
    assert "a batch of accounts" in listed.out
    shown = await typed(door, tmp_path, "schedules", "get", "nightly")
    assert fire["batch_id"] in shown.out
    assert '{"region": "emea"}' in shown.out
    got = await typed(door, tmp_path, "batch", "get", fire["batch_id"])
    assert "nightly" in got.out
    assert "to runs for write, undone by runs for erase" in got.out
    changed = await typed(
        door, tmp_path, "schedules", "update", "nightly", "count", "--every", "1h", "-o", "json"
    )
    assert changed.json[0]["batch"] is None


async def test_a_batch_reads_its_items_from_a_source(door: Invoker, tmp_path: Path) -> None:
    made = await typed(
        door, tmp_path, "batch", "create", "count", "--source", "accounts", "--param", "region=emea",
        "-o", "json",
    )  # fmt: skip
    assert made.code == 0, made.err
    assert (made.json[0]["status"], made.json[0]["source"]["source"]) == ("UPLOADING", "accounts")

    async def whole() -> bool:
        rows = await fetch(door.parts.db, "SELECT uploaded, status FROM batch")
        return [tuple(row) for row in rows] == [(2, 2)]

    await until(whole)
    lost = await typed(door, tmp_path, "batch", "create", "count", "--source", "nowhere", "-o", "json")

    async def told() -> bool:
        got = await typed(door, tmp_path, "batch", "get", lost.json[0]["batch_id"])
        return "has not given the URL" in got.out

    await until(told, deadline=30.0)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((*HOURLY, "--in-order"), 2, "--in-order has a meaning"),
        ((*HOURLY, *SOURCE, "--undo-run", "b"), 2, "--undo-run has a meaning"),
        ((*HOURLY, *SOURCE, "--apply-run", "b", "--apply-to", "c"), 2, "one of --apply-to and --apply-run"),
        (("batch", "apply", "x", "--to", "c", "--undo-run", "b"), 2, "--undo-run has a meaning"),
        (
            ("schedules", "create", "a", "count", "--every", "1h", "--param", "a=b"),
            2,
            "--param has a meaning",
        ),
        ((*HOURLY, "--batch", "x"), 3, "is no source declared"),
        (("batch", "create", "count"), 2, "Give a FILE"),
        (("batch", "create", "count", "--source", "accounts", "--key", "id"), 2, "--key has a meaning"),
        (
            ("batch", "create", "count", "--source", "accounts"),
            3,
            "spec.source.parameters.region must be given",
        ),
    ],
)
async def test_what_cannot_be_is_one_sentence(
    door: Invoker, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    told = await typed(door, tmp_path, *arguments)
    assert (told.code, told.out) == (code, ""), told.err
    assert said in told.err
    assert "Traceback" not in told.err
