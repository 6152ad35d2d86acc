"""The command line sets a tenant's limits, shows them as stored, and shows queues."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.conftest import Ended, finish, start
from tests.invoker.stand import Invoker, invoker
from tests.support.ledger import admitted, invocation


@pytest.fixture
async def door(database_url: str) -> AsyncIterator[Invoker]:
    async with invoker(database_url) as one:
        yield one


async def tenants(door: Invoker, folder: Path, *arguments: str) -> Ended:
    process = await start("tenants", *arguments, folder=folder, HOLDFAST_ADDRESS=door.address)
    return await finish(process)


async def test_limits_are_set_and_shown_as_stored(door: Invoker, tmp_path: Path) -> None:
    told = await tenants(
        door, tmp_path, "set", "acme", "--weight", "4", "--max-in-flight", "50", "--rate", "120/m",
        "--default-max-steps", "500", "--default-deadline", "2m", "-o", "json",
    )  # fmt: skip
    assert told.code == 0, told.err
    (tenant,) = told.json
    assert (tenant["tenant"], tenant["weight"], tenant["max_in_flight"]) == ("acme", 4, 50)
    assert (tenant["rate"], tenant["burst"], tenant["max_queued"]) == (2.0, 2, 1_000_000)
    assert (tenant["default_budget"]["max_steps"], tenant["default_budget"]["deadline_ms"]) == (500, 120_000)
    changed = await tenants(
        door, tmp_path, "set", "acme", "--burst", "7", "--weight", "0", "--alert-destination", "pager",
        "--retention", "90d", "--retention", "batch=90s", "--retention", "worker=0",
    )  # fmt: skip
    assert changed.code == 0, changed.err
    assert "2/s, 7 at once" in changed.out
    assert "pager" in changed.out
    assert "service 90 d, workflow 90 d, batch 90 s\n" in changed.out
    read = await tenants(door, tmp_path, "get", "acme", "-o", "json")
    assert (read.json[0]["weight"], read.json[0]["burst"], read.json[0]["max_in_flight"]) == (1, 7, 50)
    assert read.json[0]["retention"] == {"service": 7776000.0, "workflow": 7776000.0, "batch": 90.0}


async def test_caps_of_users_are_set_shown_and_taken_away(door: Invoker, tmp_path: Path) -> None:
    told = await tenants(
        door, tmp_path, "set", "acme", "--max-in-flight-per-user", "3", "--user-cap", "ann=5",
        "--user-cap", "bob@example.com=1",
    )  # fmt: skip
    assert told.code == 0, told.err
    assert "ann=5, bob@example.com=1" in told.out
    read = (await tenants(door, tmp_path, "get", "acme", "-o", "json")).json[0]
    assert (read["max_in_flight_per_user"], read["max_in_flight_by_user"]) == (
        3,
        {"ann": 5, "bob@example.com": 1},
    )
    changed = await tenants(
        door, tmp_path, "set", "acme", "--no-user-caps", "--max-in-flight-per-user", "0", "-o", "json"
    )
    (read,) = changed.json
    assert (read["max_in_flight_per_user"], read["max_in_flight_by_user"]) == (0, {})


async def test_tenants_are_listed_and_shown_with_their_queues(door: Invoker, tmp_path: Path) -> None:
    assert (await tenants(door, tmp_path, "list")).out == "No tenants.\n"
    await admitted(door.parts.db, *(invocation() for _ in range(3)), invocation(tenant="umbrella"))
    listed, as_json, one, own = await asyncio.gather(
        tenants(door, tmp_path, "list"),
        tenants(door, tmp_path, "list", "--limit", "1", "-o", "json"),
        tenants(door, tmp_path, "get", "acme"),
        tenants(door, tmp_path, "get", "--tenant", "umbrella", "-o", "json"),
    )
    header, *rows = listed.out.splitlines()
    assert header.split()[:2] == ["TENANT", "WEIGHT"]
    assert [row.split()[:5] for row in rows] == [
        ["acme", "1", "0", "1000", "3"],
        ["umbrella", "1", "0", "1000", "1"],
    ]
    assert [(line["tenant"], line["queue"]["queued"]) for line in as_json.json] == [("acme", 3)]
    assert next(line.split() for line in one.out.splitlines() if line.startswith("count"))[1] == "3"
    assert own.json[0]["tenant"] == "umbrella"
    assert own.json[0]["queue"]["queued"] == own.json[0]["intents"]["count"]["queued"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("set", "acme"), 2, "Say which limit shall change"),
        (("set", "acme", "--rate", "fast"), 2, "is not a rate"),
        (("set", "acme", "--rate", "nan"), 2, "is not a rate"),
        (("set", "acme", "--user-cap", "ann"), 2, "'ann' is not user=5, with at least 1."),
        (("set", "acme", "--user-cap", "ann=1", "--no-user-caps"), 2, "say two things"),
        (("set", "acme", "--weight", "5000"), 3, "tenant.weight: must be from 1 to 1000, or 0 for 1"),
        (("set", "acme", "--max-queued", "99999999999999999999"), 2, "Error:"),
        (("set", "acme", "--retention", "lorry=7d"), 2, "'lorry' is none of the shapes"),
        (("set", "acme", "--retention", "batch=soon"), 2, "is not a duration"),
        (
            ("set", "acme", "--retention", "batch=500ms"),
            3,
            "tenant.retention.batch: must be from 1 s to 36,500",
        ),
        (("get", "nobody"), 3, "TENANT_NOT_FOUND"),
    ],
)
async def test_what_cannot_be_is_one_sentence(
    door: Invoker, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    told = await tenants(door, tmp_path, *arguments)
    assert (told.code, told.out) == (code, ""), told.err
    assert said in told.err
    assert "Traceback" not in told.err
