"""Each service's role can do its service's work, and not another's."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from holdfast.kit.db import Database
from holdfast.ledger import (
    approval_change,
    approval_fire,
    approval_request,
    approval_view,
    approval_vote,
    inbox,
    inbox_refused,
    inspect,
    mailbox_view,
    session,
    session_state,
    tenant,
    tenant_queue,
    throttle,
)
from holdfast.ledger import fork as forking
from holdfast.ledger.cancel import cancel
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import (
    CommitItem,
    Effect,
    Happened,
    Park,
    Record,
    Requeue,
    SessionWrite,
    Stored,
)
from holdfast.ledger.domain.approval import Person, Policy, Quorum, Verdict
from holdfast.ledger.domain.budget import Usage
from holdfast.ledger.domain.commit import Charge
from holdfast.ledger.due import fire
from holdfast.ledger.history import beginning
from holdfast.ledger.mailbox import signal
from holdfast.ledger.orphan import cancel_orphans
from holdfast.ledger.partition import drop_history
from holdfast.ledger.pause import pause
from holdfast.ledger.removal import remove
from holdfast.ledger.retry import retry
from holdfast.ledger.run_list import RunFilter, list_runs
from holdfast.ledger.spawn import Parent, spawn
from holdfast.ledger.sweep import sweep
from holdfast.ledger.values import LeaseRef, Limits
from tests.support.ledger import (
    admitted,
    contradictions,
    execute,
    fetch,
    finish,
    invocation,
    open_ledger,
    opened,
)
from tests.support.outbox import make_destination

SERVICES = ("invoker", "checkpoint", "approval", "dispatcher")


@pytest.fixture
async def by_role(database_url: str) -> AsyncIterator[dict[str, Database]]:
    """A ledger as each service sees it."""
    async with AsyncExitStack() as stack:
        yield {
            service: await stack.enter_async_context(
                open_ledger(database_url, role_name=f"holdfast_{service}", pool_size=2)
            )
            for service in SERVICES
        }


async def test_the_invokers_role_can_do_all_its_verbs(by_role: dict[str, Database]) -> None:
    db, checkpoint = by_role["invoker"], by_role["checkpoint"]
    runner = await opened(db)
    await admitted(db, invocation(ordering_key="k"), invocation(ordering_key="k"), on=runner.idle())
    await admitted(db, *(invocation() for _ in range(4)))
    first, second, third = await runner.take(3)
    await session.hand_back(db, runner.session_id, [LeaseRef(first.run_id, first.epoch)])
    await cancel(db, "acme", second.run_id)
    await cancel(db, "acme", first.run_id)
    await retry(db, "acme", first.run_id)
    await signal(db, "acme", third.run_id, key="input", payload=b"1", signal_id="s")
    await signal(db, "acme", third.run_id, key="input", payload=b"1", signal_id="s")
    async with db.connection() as connection:
        assert await mailbox_view.mail(connection, [runner.session_id])
        assert (await mailbox_view.waiting(connection, [(third.run_id, 0)]))[0]
    await finish(checkpoint, third)
    async with db.connection() as connection:
        await session.heartbeat(connection, runner.invoker_id, [runner.session_id], ttl_s=9)
        await session.expire_soon(connection, runner.invoker_id, runner.session_id, grace_s=-1)
        await inspect.get(connection, "acme", first.run_id)
        await inspect.transcript(connection, "acme", first.run_id)
        await connection.fetchval("SELECT make_partitions(1)")
        assert await drop_history(connection, 1) is None
    await tenant.change(db, "acme", {"keep_service_s": 1e-6})
    assert (await remove(db)).removed == 1
    await sweep(db)
    await admitted(db, invocation(limits=Limits(deadline_ms=1)))
    assert (await fire(db)).moved.count == 1
    assert (await list_runs(db, "acme", RunFilter(), limit=50))[0]
    (talk,) = await admitted(db, invocation(session_id="s"))
    (held,) = [run for run in await (await opened(db)).take(9) if run.run_id == talk.run_id]
    await finish(checkpoint, held, session=SessionWrite(b"{}", 0))
    async with db.connection() as connection:
        assert (await session_state.get(connection, "acme", "s")).version == 1
    await session_state.forget(db, "acme", "s")
    (above,) = await admitted(db, invocation())
    (parent,) = [run for run in await (await opened(db)).take(9) if run.run_id == above.run_id]
    children = [invocation(), invocation()]
    for child in children:
        await spawn(db, child, Parent(parent.run_id, parent.epoch))
    assert (await cancel(db, "acme", children[0].run_id)).moved.mail == [parent.run_id]
    await finish(checkpoint, parent)
    assert (await cancel_orphans(db)).ended == [children[1].run_id]


async def test_the_roles_hold_caps_of_users(by_role: dict[str, Database]) -> None:
    db, checkpoint = by_role["invoker"], by_role["checkpoint"]
    await tenant.change(db, "acme", {"user_cap": 1}, make=True)
    runner = await opened(db)
    runs = await admitted(db, *(invocation(user="ann") for _ in range(5)))
    (first,) = await runner.take(9)
    await cancel(db, "acme", runs[4].run_id)
    await pause(db, "acme", runs[3].run_id)
    await finish(checkpoint, first)
    assert [run.run_id for run in await runner.take(9)] == [runs[1].run_id]
    await tenant.change(db, "acme", {"user_cap": None})
    assert [run.run_id for run in await runner.take(9)] == [runs[2].run_id]
    await execute(db, "UPDATE throttled_user SET look_time = now()")
    assert (await throttle.look_again(db))[0] == 1
    async with db.connection() as connection:
        assert not await throttle.reason(connection, "acme", "ann")


async def test_the_invokers_role_keeps_and_sends_again_what_sources_received(
    by_role: dict[str, Database],
) -> None:
    db = by_role["invoker"]
    told = ("i", "{}", "k", "o", "", 0, "{}", "", None, "UNKNOWN_INTENT", "m", "")
    async with db.connection() as connection:
        await inbox_refused.set_aside(connection, "acme", "hooks", [inbox_refused.Aside(*told)] * 2)
        (event,) = await inbox_refused.list_refused(connection, "acme", limit=9)
    await inbox_refused.retry(db, "acme", event.seq)
    async with inbox.turn(db, after="", passed_over=()) as held:
        assert held is not None
        (again,) = held.events
        await inbox.settle(held, [], {("acme", again.seq): inbox.Refusal("UNKNOWN_INTENT", "m")})
    async with db.connection() as connection:
        (event,) = await inbox_refused.list_refused(connection, "acme", limit=9)
    assert (event.source, event.ordering_key) == ("hooks", "o")
    await inbox_refused.discard(db, "acme", event.seq)


async def test_the_checkpoints_role_can_do_all_its_verbs(
    database_url: str, by_role: dict[str, Database]
) -> None:
    invoker, db = by_role["invoker"], by_role["checkpoint"]
    async with open_ledger(database_url) as owner:
        await make_destination(owner, "letters")
    runner = await opened(invoker)
    await admitted(invoker, *(invocation(tenant="default", ordering_key="k") for _ in range(3)))
    (run,) = await runner.take(5)
    for signal_id in ("s", "t"):
        await signal(invoker, "default", run.run_id, key="input", payload=b"1", signal_id=signal_id)
    assert [page async for page in mailbox_view.load_mail(db, run.run_id, 1)]
    steps = [Record("fetch", b"record")]
    effect = Effect(uuid.uuid4(), "letters", "key", b"{}", ordering_key="ann")
    items = [
        CommitItem(run.run_id, 1, 1, steps, Charge(steps=1), Happened(2, 2, b"batch")),
        CommitItem(run.run_id, 1, 2, effects=[effect], consumed=["s"]),
        CommitItem(run.run_id, 1, 3, move=Requeue(delay=0.0)),
    ]
    results = await commit_group(db, items)
    assert all(isinstance(result, Stored) for result in results), results
    (again,) = await runner.take(5)
    assert isinstance(await finish(db, again), Stored)
    assert len(await runner.take(5)) == 1
    for version in (0, 1):
        (talk,) = await admitted(invoker, invocation(session_id="s"))
        (held,) = [run for run in await runner.take(9) if run.run_id == talk.run_id]
        found = (await beginning(db, held.run_id, held.epoch)).session
        assert found is not None
        assert found.version == version
        assert isinstance(await finish(db, held, session=SessionWrite(b"%d" % version, version)), Stored)
    (away,) = await admitted(invoker, invocation(handoff=Limits(deadline_ms=60_000)))
    (held,) = [run for run in await runner.take(9) if run.run_id == away.run_id]
    (answer,) = await commit_group(db, [CommitItem(held.run_id, held.epoch, 1, handoff=True)])
    assert isinstance(answer, Stored)
    assert (await beginning(db, held.run_id, held.epoch)).handed_off
    for _ in range(2):  # the second waits behind the first
        of = await forking.source(db, "default", run.run_id)
        assert [step.position async for step in forking.steps_until(db, of, 1)] == [1]
        assert len([told async for told in forking.told_until(db, of)]) == 1
        key = str(uuid.uuid4())
        wanted = forking.Wanted(uuid.uuid4(), key, b"same", [1], {1: b"edited"}, Usage(steps=1), None)
        forked = await forking.fork(db, of, wanted)
        assert await forking.found(db, "default", (key, b"same")) == forking.Forked(forked.run_id, False)
        assert (await forking.view(db, forked.run_id)).forked_from == (run.run_id, 1)
    (above,) = await admitted(invoker, invocation())
    (parent,) = [run for run in await runner.take(9) if run.run_id == above.run_id]
    below = invocation()
    await spawn(invoker, below, Parent(parent.run_id, parent.epoch))
    (child,) = [run for run in await runner.take(9) if run.run_id == below.run_id]
    rest = CommitItem(parent.run_id, parent.epoch, 1, move=Park([f"child:{below.run_id}"]))
    assert isinstance((await commit_group(db, [rest]))[0], Stored)
    assert isinstance(await finish(db, child), Stored)
    assert above.run_id in {run.run_id for run in await runner.take(9)}


async def test_the_approvals_role_can_do_all_its_verbs_and_the_invokers_can_decide(
    database_url: str, by_role: dict[str, Database]
) -> None:
    invoker, checkpoint, db = (by_role[name] for name in ("invoker", "checkpoint", "approval"))
    async with open_ledger(database_url) as owner:
        await make_destination(owner, "letters", tenant="acme")
        runner = await opened(invoker)
        (admission,) = await admitted(invoker, invocation(), on=runner.idle())
        assert admission.lease
        run = admission.lease
        terms = Policy(
            (Quorum(1, ("user:ann",)),),
            timeout=3600.0,
            payload_editable=True,
            notice_destination="letters",
            admin_destination="letters",
        )

        async def gate(step: str) -> uuid.UUID:
            asked = approval_request.Request(run.run_id, run.epoch, step, "Pay?", b"{}", terms)
            return (await approval_request.request(db, asked)).approval_id

        first, second, third = [await gate(step) for step in ("a", "b", "c")]
        for role, gate_id in ((db, first), (invoker, second)):
            changed = await approval_vote.decide(
                role, "acme", gate_id, Person("ann"), Verdict.APPROVE, edited=b"1", run_id=run.run_id
            )
            assert changed.decided == [run.run_id]
        assert await gate("a") == first
        await execute(owner, "UPDATE approval SET create_time = now() - interval '2 h', next_time = now()")
        looked, fired = await approval_fire.fire(db)
        assert (looked, [each.approval_id for each in fired]) == (3, [third])
        fourth = await gate("d")
        park = CommitItem(run.run_id, run.epoch, 1, move=Park((approval_change.key_of(fourth),)))
        assert isinstance((await commit_group(checkpoint, [park]))[0], Stored)
        changed = await approval_vote.decide(db, "acme", fourth, Person("ann"), Verdict.DENY)
        assert changed.pools
        async with db.connection() as connection:
            assert len(await approval_view.changes(connection, "acme", 0, 9)) == 4
            assert await approval_view.last_changes(connection, ["acme", "none"]) == {"acme": 8}
            assert await approval_view.audit(connection, [first])
        assert await contradictions(owner) == []


async def test_the_invokers_role_edits_tenants_and_tells_of_dead_letters_as_the_checkpoints_does(
    database_url: str, by_role: dict[str, Database]
) -> None:
    invoker, checkpoint = by_role["invoker"], by_role["checkpoint"]
    async with open_ledger(database_url) as owner:
        await make_destination(owner, "pager", tenant="acme")
        await tenant.change(invoker, "acme", {"alert_destination": "pager", "weight": 2}, make=True)
        runner = await opened(invoker)
        await admitted(invoker, *(invocation(max_attempts=1) for _ in range(2)))
        failing, _ = await runner.take(2)
        await commit_group(checkpoint, [CommitItem(failing.run_id, failing.epoch, 1, move=Requeue())])
        await runner.expire()
        assert len((await sweep(invoker)).dead_lettered) == 1
        assert len(await fetch(owner, "SELECT FROM effect_due")) == 2
        await tenant_queue.add_refused(invoker, {"acme": (1, 1)})
        async with invoker.connection() as connection:
            assert (await tenant.list_tenants(connection, limit=9))[0][0].terms.weight == 2
            assert (await tenant_queue.queues(connection, ["acme"]))["acme"].dead_lettered == 2
            assert await tenant_queue.intents(connection, "acme") == []


@pytest.mark.parametrize(
    ("service", "forbidden"),
    [
        ("invoker", "SELECT * FROM checkpoint"),
        ("invoker", "INSERT INTO checkpoint (day, run_id) VALUES (now(), gen_random_uuid())"),
        ("invoker", "SELECT * FROM effect"),
        ("invoker", "SELECT body FROM effect"),
        ("invoker", "UPDATE effect SET status = 1"),
        ("invoker", "DELETE FROM effect_due"),
        ("invoker", "DELETE FROM tenant"),
        ("invoker", "SELECT url FROM destination"),
        ("checkpoint", "INSERT INTO tenant (tenant) VALUES ('t')"),
        ("invoker", "SELECT * FROM destination"),
        ("invoker", "UPDATE run SET envelope = ''"),
        ("invoker", "DELETE FROM run"),
        ("invoker", "UPDATE session SET state = ''"),
        ("checkpoint", "INSERT INTO child (run_id) VALUES (gen_random_uuid())"),
        ("checkpoint", "DELETE FROM session"),
        ("checkpoint", "INSERT INTO handoff (run_id) VALUES (gen_random_uuid())"),
        ("checkpoint", "UPDATE handoff SET deadline_ms = 9"),
        ("invoker", "DELETE FROM transcript"),
        ("invoker", "UPDATE mailbox SET payload = ''"),
        ("invoker", "UPDATE idempotency SET run_id = gen_random_uuid()"),
        ("checkpoint", "SELECT * FROM run"),
        ("checkpoint", "SELECT envelope FROM run"),
        ("checkpoint", "INSERT INTO run (run_id) VALUES (gen_random_uuid())"),
        ("dispatcher", "SELECT begin_fork(null, null, null, 1, 1, 1, 1, 1, null, null)"),
        ("checkpoint", "INSERT INTO lease (run_id) VALUES (gen_random_uuid())"),
        ("checkpoint", "INSERT INTO run_state (run_id) VALUES (gen_random_uuid())"),
        ("checkpoint", "UPDATE checkpoint SET record = ''"),
        ("checkpoint", "DELETE FROM transcript"),
        ("checkpoint", "UPDATE effect SET status = 1"),
        ("checkpoint", "UPDATE destination SET name = ''"),
        ("checkpoint", "DELETE FROM run_outcome"),
        ("checkpoint", "INSERT INTO mailbox (run_id) VALUES (gen_random_uuid())"),
        ("dispatcher", "SELECT * FROM mailbox"),
        ("approval", "SELECT * FROM mailbox"),
        ("dispatcher", "SELECT * FROM run_state"),
        ("dispatcher", "SELECT * FROM run"),
        ("dispatcher", "SELECT * FROM checkpoint"),
        ("dispatcher", "DELETE FROM effect"),
        ("approval", "SELECT * FROM run"),
        ("approval", "UPDATE approval_audit SET content = ''"),
        ("approval", "DELETE FROM approval_audit"),
        ("approval", "DELETE FROM approval"),
        ("invoker", "UPDATE approval_audit SET content = ''"),
        ("invoker", "INSERT INTO approval (approval_id) VALUES (gen_random_uuid())"),
        ("checkpoint", "DELETE FROM approval_audit"),
        ("dispatcher", "SELECT * FROM approval"),
        ("approval", "UPDATE run_state SET tokens = 0"),
        *((service, "DROP TABLE run") for service in SERVICES),
        *((service, "CREATE TABLE ours (a int)") for service in SERVICES),
        *((service, "UPDATE migration SET digest = ''") for service in SERVICES),
        *((service, "SELECT grant_roles()") for service in SERVICES),
        ("checkpoint", "SELECT make_partitions(400)"),
        ("dispatcher", "SELECT make_partitions(400)"),
        ("checkpoint", "SELECT drop_history(1)"),
        ("dispatcher", "SELECT drop_history(1)"),
        ("checkpoint", "SELECT remove_runs('{}')"),
        ("dispatcher", "SELECT remove_runs('{}')"),
        ("approval", "SELECT remove_runs('{}')"),
        ("invoker", "DELETE FROM history_dropped"),
    ],
)
async def test_a_role_must_not(by_role: dict[str, Database], service: str, forbidden: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(by_role[service], forbidden)


async def test_grants_can_be_given_again(database_url: str) -> None:
    async with open_ledger(database_url) as owner:
        await execute(owner, "SELECT grant_roles()")
        assert await contradictions(owner) == []
        rows = await fetch(owner, "SELECT rolname FROM pg_roles WHERE rolname LIKE 'holdfast%'")
        assert len(rows) == 5
