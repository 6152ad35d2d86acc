"""The pool against a real PostgreSQL: what it sets, how it fails, and how it heals."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text

from holdfast.embedded import EmbeddedPostgres
from holdfast.kit.db import Database, as_fault, is_connection_error
from holdfast.kit.errors import LedgerUnavailable, RunNotFound
from tests.kit.until import until


@pytest.fixture
async def db(empty_database_url: str) -> AsyncIterator[Database]:
    async with await Database.connect(empty_database_url, application_name="test", pool_size=3) as database:
        async with database.connection() as connection:
            await connection.execute("CREATE TABLE thing (id int PRIMARY KEY, n int NOT NULL)")
        yield database


async def backend(db: Database) -> int:
    async with db.connection() as connection:
        pid: int = await connection.fetchval("SELECT pg_backend_pid()")
        return pid


async def test_every_connection_has_its_name_and_its_timeouts(empty_database_url: str) -> None:
    async with (
        await Database.connect(
            empty_database_url, application_name="invoker", statement_timeout=1.5, lock_timeout=0.5
        ) as db,
        db.connection() as connection,
        db.query() as query,
    ):
        expected = {
            "application_name": "invoker",
            "statement_timeout": "1500ms",
            "lock_timeout": "500ms",
            "idle_in_transaction_session_timeout": "10s",
            "TimeZone": "UTC",
        }
        for name, value in expected.items():
            assert await connection.fetchval("SELECT current_setting($1)", name) == value
            assert (await query.execute(text(f"SHOW {name}"))).scalar_one() == value


async def test_who_is_frozen_between_parsing_a_statement_and_binding_it_lets_go_of_its_locks(
    db: Database, empty_database_url: str
) -> None:
    async with db.connection() as connection:
        if connection.get_server_version() < (17,):
            pytest.skip("PostgreSQL has transaction_timeout from 17 on")
        await connection.execute("INSERT INTO thing VALUES (1, 1)")
    state = "SELECT state FROM pg_stat_activity WHERE application_name = 'frozen'"
    async with await Database.connect(
        empty_database_url, application_name="frozen", statement_timeout=0.2, idle_in_transaction_timeout=0.2
    ) as other:
        frozen = other.transaction()
        its = await frozen.__aenter__()
        await its.execute("UPDATE thing SET n = 2")
        await its.prepare("UPDATE thing SET n = 3")  # parsed, and neither bound nor ended
        async with db.transaction() as connection:
            assert await connection.fetchval(state) == "active", "PostgreSQL does not call this idle"
            await connection.execute("UPDATE thing SET n = 4")
        with pytest.raises(LedgerUnavailable):
            await frozen.__aexit__(None, None, None)


async def test_a_connection_acts_under_the_role_it_was_given(empty_database_url: str) -> None:
    admin = await asyncpg.connect(empty_database_url)
    await admin.execute("CREATE ROLE kit_test_role")
    try:
        async with await Database.connect(
            empty_database_url, application_name="x", role_name="kit_test_role"
        ) as db:
            for _ in range(2):
                async with db.connection() as connection:
                    assert await connection.fetchval("SELECT current_user") == "kit_test_role"
    finally:
        await admin.execute("DROP ROLE kit_test_role")
        await admin.close()


async def test_a_transaction_commits_at_its_end_and_rolls_back_on_any_exception(db: Database) -> None:
    async with db.transaction() as connection:
        await connection.execute("INSERT INTO thing VALUES (1, 1)")

    async def refused() -> None:
        async with db.transaction() as connection:
            await connection.execute("INSERT INTO thing VALUES (2, 2)")
            raise RunNotFound("No.")

    with pytest.raises(RunNotFound):
        await refused()
    async with db.connection() as connection:
        assert await connection.fetchval("SELECT array_agg(id) FROM thing") == [1]


async def test_the_error_of_a_statement_comes_out_as_it_is_and_keeps_the_connection(db: Database) -> None:
    pids = set()
    for _ in range(3):
        pids.add(await backend(db))
        with pytest.raises(asyncpg.UniqueViolationError):
            async with db.transaction() as connection:
                await connection.execute("INSERT INTO thing VALUES (1, 1), (1, 1)")
        with pytest.raises(asyncpg.DataError):
            async with db.connection() as connection:
                await connection.fetchval("SELECT $1::int", "no number")
        with pytest.raises(ConnectionResetError):  # of something else, inside of the block
            async with db.connection():
                raise ConnectionResetError
    assert len(pids) == 1


async def test_a_killed_session_is_ledger_unavailable_and_the_next_call_works(db: Database) -> None:
    pids = []

    async def killed() -> None:
        async with db.connection() as connection:
            pids.append(await connection.fetchval("SELECT pg_backend_pid()"))
            async with db.connection() as other:
                await other.execute("SELECT pg_terminate_backend($1, 5000)", pids[0])
            await connection.fetchval("SELECT 1")

    with pytest.raises(LedgerUnavailable) as caught:
        await killed()
    assert caught.value.retry_after is not None
    assert await backend(db) != pids[0]
    for _ in range(5):
        await backend(db)


async def test_a_pool_without_a_free_connection_says_so_in_time(empty_database_url: str) -> None:
    async with await Database.connect(
        empty_database_url, application_name="x", pool_size=1, acquire_timeout=0.2
    ) as db:
        async with db.connection():
            with pytest.raises(LedgerUnavailable, match="no free connection"):
                async with db.connection():
                    pass
        await backend(db)


async def test_a_statement_that_takes_too_long_is_ledger_unavailable(empty_database_url: str) -> None:
    async with await Database.connect(empty_database_url, application_name="x", statement_timeout=0.1) as db:
        pid = await backend(db)
        with pytest.raises(LedgerUnavailable, match="in time"):
            async with db.connection() as connection:
                await connection.execute("SELECT pg_sleep(5)")
        with pytest.raises(LedgerUnavailable, match="in time"):
            async with db.query() as query:
                await query.execute(text("SELECT pg_sleep(5)"))
        assert await backend(db) == pid


async def test_nobody_to_connect_to_is_ledger_unavailable() -> None:
    for url in ("postgresql://u@127.0.0.1:1/db", "postgresql://u@/db?host=/nowhere/at/all"):
        with pytest.raises(LedgerUnavailable):
            await Database.connect(url, application_name="x", acquire_timeout=2)


async def test_a_deadlock_is_tried_again_until_it_works(db: Database) -> None:
    async with db.connection() as connection:
        await connection.execute("INSERT INTO thing VALUES (1, 0), (2, 0)")
    both = asyncio.Barrier(2)
    attempts = 0

    async def crossing(first: int, second: int) -> None:
        nonlocal attempts
        attempts += 1
        met = attempts > 2
        async with db.transaction() as connection:
            await connection.execute("SET LOCAL deadlock_timeout = '20ms'")
            await connection.execute("UPDATE thing SET n = n + 1 WHERE id = $1", first)
            if not met:
                await both.wait()
            await connection.execute("UPDATE thing SET n = n + 1 WHERE id = $1", second)

    await asyncio.gather(
        db.retrying(lambda: crossing(1, 2)),
        db.retrying(lambda: crossing(2, 1)),
    )
    assert attempts == 3
    async with db.connection() as connection:
        assert await connection.fetchval("SELECT array_agg(n) FROM thing") == [2, 2]


async def test_what_never_stops_conflicting_ends_as_ledger_unavailable(db: Database) -> None:
    attempts = 0

    async def conflicting() -> None:
        nonlocal attempts
        attempts += 1
        async with db.connection() as connection:
            await connection.execute(
                "DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = 'serialization_failure'; END $$"
            )

    with pytest.raises(LedgerUnavailable, match="contended"):
        await db.retrying(conflicting, attempts=3)
    assert attempts == 3


async def test_a_cancellation_during_commit_waits_for_its_outcome(db: Database) -> None:
    # A deferred trigger holds the COMMIT on a lock until we let it go.
    async with db.connection() as connection:
        await connection.execute("""
            CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
              $$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON thing
              DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow();
        """)

    async def write() -> None:
        async with db.transaction() as connection:
            await connection.execute("INSERT INTO thing VALUES (1, 1)")

    async with db.connection() as holder:
        await holder.execute("SELECT pg_advisory_lock(7)")
        task = asyncio.ensure_future(write())

        async def waiting() -> bool:
            waiters = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            return bool(await holder.fetchval(waiters))

        await until(waiting)
        task.cancel()
        await asyncio.sleep(0)
        await holder.execute("SELECT pg_advisory_unlock(7)")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await holder.fetchval("SELECT count(*) FROM thing") == 1


async def test_a_cancelled_statement_leaves_a_usable_connection(empty_database_url: str) -> None:
    async with await Database.connect(empty_database_url, application_name="x", pool_size=1) as db:

        async def sleeping() -> None:
            async with db.transaction() as connection:
                await connection.execute("SELECT pg_sleep(10)")

        for turns in range(1, 30):
            task = asyncio.ensure_future(sleeping())
            for _ in range(turns):  # cancel it a little later each time
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with asyncio.timeout(3):
            await backend(db)


async def test_a_listener_hears_and_survives_the_end_of_its_session(db: Database) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with db.listen({"runs": heard.put_nowait}) as listener, asyncio.timeout(10):
        assert await heard.get() == ""
        async with db.connection() as connection:
            await connection.execute("SELECT pg_notify('runs', 'one')")
            assert await heard.get() == "one"
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ILIKE 'listen%'"
            )
            assert await heard.get() == ""
            await listener.listening.wait()
            await connection.execute("SELECT pg_notify('runs', 'two')")
            assert await heard.get() == "two"
    await listener.close()


async def test_a_callback_that_fails_does_not_end_the_listening(db: Database) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    def failing(payload: str) -> None:
        heard.put_nowait(payload)
        raise RuntimeError

    async with db.listen({"runs": failing}), asyncio.timeout(10):
        await heard.get()
        async with db.connection() as connection:
            for name in ("one", "two"):
                await connection.execute("SELECT pg_notify('runs', $1)", name)
        assert [await heard.get(), await heard.get()] == ["one", "two"]


async def test_everything_heals_when_postgres_is_killed_and_comes_back(
    mortal_postgres: EmbeddedPostgres,
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with (
        await Database.connect(mortal_postgres.url("postgres"), application_name="x") as db,
        db.listen({"runs": heard.put_nowait}),
        asyncio.timeout(60),
    ):
        assert await heard.get() == ""
        async with db.query() as query:
            await query.execute(text("SELECT 1"))

        async def killing() -> None:
            async with db.transaction() as connection:
                kill = "cat >&2; kill -9 $(head -1 postmaster.pid)"  # what is not read breaks the pipe
                await connection.execute(f"COPY (SELECT 1) TO PROGRAM '{kill}'")
                await connection.execute("SELECT pg_sleep(5)")

        with pytest.raises(LedgerUnavailable):
            await killing()
        assert await heard.get() == ""

        async def healed() -> bool:
            try:
                await backend(db)
                async with db.query() as query:
                    await query.execute(text("SELECT 1"))
            except LedgerUnavailable:
                return False
            return True

        await until(healed)


def test_a_bug_is_no_connection_error() -> None:
    for error in (
        ValueError(),
        asyncpg.UniqueViolationError(),
        asyncpg.InterfaceError("another operation is"),
    ):
        assert not is_connection_error(error)
        assert as_fault(error) is None
    for error in (OSError(), asyncpg.AdminShutdownError(), asyncpg.CannotConnectNowError()):
        assert is_connection_error(error)
        assert isinstance(as_fault(error), LedgerUnavailable)
    assert as_fault(TimeoutError()) is None
