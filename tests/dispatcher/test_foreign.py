"""A database that is another service's: its own transactions stage, and a dispatcher beside it delivers."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from examples.standins.webhook_receiver import WebhookReceiver
from holdfast.dev.database import logging_in_as
from holdfast.embedded import EmbeddedPostgres
from holdfast.kit.db import Database
from holdfast.ledger import outbox_install
from tests.cli.conftest import Ended, finish, start
from tests.polyglot.toolchain import away_line
from tests.support.dispatching import SECRET, all_ended, to_receiver
from tests.support.outbox import check_places, open_database

STAGE = """SELECT holdfast_outbox.stage(destination => 'letters', idempotency_key => 'order/' || $1,
                                         payload => jsonb_build_object('order', $1::text))"""
SHOP = "CREATE TABLE shop_order (number text PRIMARY KEY)"
GO = Path(__file__).parents[1] / "polyglot" / "outbox-go"


@pytest.fixture
async def shop_url(empty_database_url: str, tmp_path: Path) -> str:
    """A shop's database, with the outbox as the command puts it there."""
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute(SHOP)
    await connection.close()
    told = await install(empty_database_url, tmp_path)
    assert told.code == 0, told.err
    return empty_database_url


@pytest.fixture
async def db(shop_url: str) -> AsyncIterator[Database]:
    """The same, as a dispatcher comes to it."""
    async with open_database(shop_url) as db:
        yield db


async def install(url: str, folder: Path, *arguments: str) -> Ended:
    process = await start("outbox", "install", "--database-url", url, *arguments, folder=folder)
    return await finish(process)


@asynccontextmanager
async def beside(url: str, folder: Path, **more: str) -> AsyncIterator[Any]:
    """Run `holdfast serve dispatcher --database-url …`."""
    settings = {
        "LISTEN": "127.0.0.1:0",
        "ALLOW_PRIVATE_ADDRESSES": "1",
        "SECRET_RECEIVER": SECRET,
        "LEASE_TTL": "1",
        "HEARTBEAT_INTERVAL": "0.3",
        "DIE_WITH_PARENT": "1",
        **more,
    }
    process = await start(
        "serve", "dispatcher", "--database-url", url, folder=folder,
        **{f"HOLDFAST_{name}": value for name, value in settings.items()},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        assert json.loads(line)["service"] == "dispatcher"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def order(connection: Any, number: str) -> None:
    """Write an order and stage its letter."""
    await connection.execute("INSERT INTO shop_order VALUES ($1)", number)
    await connection.execute(STAGE, number)


async def doubled(shop: Any, letter: str, number: str) -> None:
    """Stage a letter, and then fail at an order that is there already."""
    async with shop.transaction():
        await shop.execute(STAGE, letter)
        await shop.execute("INSERT INTO shop_order VALUES ($1)", number)


def orders(receiver: WebhookReceiver) -> set[str]:
    return {delivery.body["order"] for delivery in receiver.deliveries}


async def test_what_a_services_transaction_stages_is_delivered_exactly_if_it_commits(
    db: Database, shop_url: str, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    await to_receiver(db, receiver, "letters")
    shop = await asyncpg.connect(shop_url)
    async with beside(shop_url, tmp_path) as process:
        transaction = shop.transaction()
        await transaction.start()
        await order(shop, "lost")
        await transaction.rollback()
        for number in "123":
            async with shop.transaction():
                await order(shop, number)
        with pytest.raises(asyncpg.UniqueViolationError):
            await doubled(shop, "4", "1")
        await all_ended(db, 3)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    assert orders(receiver) == {"1", "2", "3"}
    assert {row[0] for row in await shop.fetch("SELECT number FROM shop_order")} == {"1", "2", "3"}
    await shop.close()
    await check_places(db)


async def test_a_dispatcher_killed_at_its_work_beside_a_service_loses_nothing(
    db: Database, shop_url: str, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    await to_receiver(db, receiver, "letters")
    shop = await asyncpg.connect(shop_url)
    async with shop.transaction():
        for number in range(8):
            await order(shop, str(number))
    await shop.close()
    async with beside(shop_url, tmp_path, CRASH_AT="dispatcher.after_send:3") as first:
        assert await asyncio.wait_for(first.wait(), 30) == -signal.SIGKILL
    async with beside(shop_url, tmp_path):
        await all_ended(db, 8)
    statistics = receiver.statistics()
    assert statistics["applied"] == statistics["idempotency_keys"] == 8
    assert orders(receiver) == {str(number) for number in range(8)}
    await check_places(db)


async def test_roles_made_for_it_stage_and_deliver_and_can_do_nothing_else(
    shop_url: str, receiver: WebhookReceiver, db: Database, tmp_path: Path
) -> None:
    await to_receiver(db, receiver, "letters")
    name = urlsplit(shop_url).path.removeprefix("/")
    stages, dispatches = f"{name}_shop", f"{name}_post"
    try:
        printed = await install(shop_url, tmp_path, "--service-role", stages, "--print-sql")
        assert printed.out.splitlines() == [
            f'CREATE ROLE "{stages}" LOGIN;', f'GRANT holdfast_service TO "{stages}";'
        ]  # fmt: skip
        for _ in range(2):
            made = await install(
                shop_url, tmp_path, "--service-role", stages, "--dispatcher-role", dispatches
            )
            assert (made.code, made.out) == (0, "Nothing to apply.\n"), made
        shop = await asyncpg.connect(logging_in_as(shop_url, stages))
        await shop.execute(STAGE, "1")
        for forbidden in ("SELECT * FROM holdfast.effect", "DELETE FROM holdfast.effect_due", SHOP):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await shop.execute(forbidden.replace("shop_order", "more"))
        await shop.close()
        async with beside(logging_in_as(shop_url, dispatches), tmp_path):
            await all_ended(db, 1)
        post = await asyncpg.connect(logging_in_as(shop_url, dispatches))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await post.execute("SELECT * FROM shop_order")
        await post.close()
    finally:
        async with db.connection() as connection:
            for role in (stages, dispatches):
                await connection.execute(f'DROP ROLE IF EXISTS "{role}"')
    odd = await install(shop_url, tmp_path, "--service-role", 'shop"; DROP ROLE')
    assert (odd.code, odd.err.startswith("Error:")) == (3, True)


async def test_installing_is_repeatable_also_at_once_and_after_it_was_cut_short(
    empty_database_url: str, tmp_path: Path
) -> None:
    await outbox_install.install(empty_database_url)
    connection = await asyncpg.connect(empty_database_url)
    # As a crash between two migrations, or a release of before, leaves it: the mark, and not the last ones.
    await connection.execute("TRUNCATE holdfast.outbox_only")
    applied = await asyncio.gather(*(outbox_install.install(empty_database_url) for _ in range(3)))
    assert applied == [[], [], []]
    assert await connection.fetchval("SELECT count(*) FROM holdfast.outbox_only") == 1
    with pytest.raises(asyncpg.PostgresError) as refused:
        await connection.execute("SELECT holdfast.enqueue_run('count', '{}', 'k')")
    assert refused.value.sqlstate == "HF004"
    await connection.close()
    again = await install(empty_database_url, tmp_path, "-o", "json")
    assert again.json == [{"applied": []}]


async def test_it_goes_only_when_nothing_is_pending_and_touches_nothing_of_the_services(
    db: Database, shop_url: str, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    await to_receiver(db, receiver, "letters")
    shop = await asyncpg.connect(shop_url)
    await order(shop, "1")
    refused = await install(shop_url, tmp_path, "--uninstall", "--yes")
    assert (refused.code, "1 effects are on their way" in refused.err) == (3, True)
    async with beside(shop_url, tmp_path):
        await all_ended(db, 1)
    shown = await install(shop_url, tmp_path, "--uninstall", "-o", "json")
    assert shown.json == [
        {"uninstalled": False, "pending": 0, "dead_lettered": 0, "effects": 1, "destinations": 1}
    ]
    gone = await install(shop_url, tmp_path, "--uninstall", "--yes")
    assert gone.code == 0, gone.err
    assert [row[0] for row in await shop.fetch("SELECT number FROM shop_order")] == ["1"]
    schemas = await shop.fetch("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'holdfast%'")
    assert schemas == []
    again = await install(shop_url, tmp_path, "--uninstall", "--yes")
    assert (again.code, "No outbox is installed" in again.err) == (3, True)
    assert (await install(shop_url, tmp_path)).code == 0
    await shop.close()


async def test_a_stage_that_races_the_uninstall_is_kept_from_it_or_refuses_it(
    db: Database, shop_url: str, receiver: WebhookReceiver
) -> None:
    await to_receiver(db, receiver, "letters")
    shop = await asyncpg.connect(shop_url)
    transaction = shop.transaction()
    await transaction.start()
    await order(shop, "1")
    going = asyncio.ensure_future(outbox_install.uninstall(shop_url))

    async def waits() -> bool:
        return bool(await shop.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))

    while not await waits():  # noqa: ASYNC110 - PostgreSQL announces nothing
        await asyncio.sleep(0.01)
    await transaction.commit()
    with pytest.raises(outbox_install.StillPendingError):
        await going
    await shop.close()


async def test_a_ledger_is_not_taken_for_somebody_elses(database_url: str, tmp_path: Path) -> None:
    for arguments in ((), ("--uninstall", "--yes")):
        told = await install(database_url, tmp_path, *arguments)
        assert (told.code, "is a ledger" in told.err) == (3, True), told


def built(folder: Path) -> Path:
    """Build the shop in Go; skips where that cannot be done."""
    if shutil.which("go") is None:
        pytest.skip("go is not installed")
    program = folder / "outbox-go"
    done = subprocess.run(
        ["go", "build", "-o", program, "."], cwd=GO, capture_output=True, text=True, check=False
    )
    if away := done.returncode and away_line(done.stderr):
        pytest.skip(f"go could not fetch what it is built with: {away}")
    assert done.returncode == 0, done.stderr
    return program


async def run(program: Path, url: str, *arguments: str) -> Sequence[str]:
    process = await asyncio.create_subprocess_exec(
        program, *arguments,
        env=os.environ | {"SHOP_DATABASE_URL": url},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode().splitlines()


@pytest.mark.timeout(600)
async def test_a_service_in_go_stages_in_its_own_transaction(
    db: Database, shop_url: str, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    program = await asyncio.to_thread(built, tmp_path)
    await to_receiver(db, receiver, "letters")
    async with beside(shop_url, tmp_path):
        kept = await run(program, shop_url, "commit", "7", "8", "9")
        assert len(await run(program, shop_url, "rollback", "10", "11")) == 2
        await all_ended(db, 3)
    assert [delivery.body["order"] for delivery in receiver.deliveries] == ["7", "8", "9"]
    async with db.connection() as connection:
        rows = await connection.fetch("SELECT effect_id::text FROM effect ORDER BY seq")
        assert [f"{number} {row[0]}" for number, row in zip("789", rows, strict=True)] == kept
        assert await connection.fetchval("SELECT count(*) FROM public.shop_order") == 3


async def test_a_server_that_is_away_is_told_of_in_a_sentence(
    mortal_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    url = mortal_postgres.url("nowhere")
    told = await install(url, tmp_path)
    assert (told.code, told.err.startswith("Error: The database cannot be used")) == (4, True), told
