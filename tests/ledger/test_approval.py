"""A gate is decided once: by those who may, by its time, or by its run's end; and its run hears of it."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from holdfast.kit.db import Database
from holdfast.kit.errors import (
    ApprovalDecided,
    ApprovalNotFound,
    DestinationNotFound,
    Fenced,
    InvalidField,
    NotAnApprover,
)
from holdfast.ledger import approval_view
from holdfast.ledger.approval_change import Changed, key_of
from holdfast.ledger.approval_fire import fire
from holdfast.ledger.approval_record import NO_HASH
from holdfast.ledger.approval_request import Request, request
from holdfast.ledger.approval_vote import decide
from holdfast.ledger.cancel import cancel
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Park
from holdfast.ledger.domain.approval import (
    ApprovalStatus,
    Escalation,
    Person,
    Policy,
    Quorum,
    Reminders,
    Verdict,
)
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.values import Leased
from tests.support.ledger import (
    admitted,
    contradictions,
    execute,
    fetch,
    finish,
    invocation,
    opened,
    status_of,
)

ANN, BOB, CAT = (Person(name, frozenset({"writers"})) for name in ("ann", "bob", "cat"))
ANYONE = (Quorum(1, ("group:writers",)),)
APPROVE, DENY = Verdict.APPROVE, Verdict.DENY


async def running(db: Database) -> Leased:
    runner = await opened(db)
    (run,) = await admitted(db, invocation(user="cat"), on=runner.idle())
    assert run.lease
    return run.lease


async def ask(db: Database, run: Leased, step: str = "review", **policy: Any) -> UUID:
    given: dict[str, Any] = {"required": ANYONE, "timeout": 3600.0, **policy}
    terms = Policy(**given)
    asked = Request(run.run_id, run.epoch, step, "Pay?", b'{"amount":7}', terms)
    return (await request(db, asked)).approval_id


async def park(db: Database, run: Leased, approval_id: UUID) -> None:
    await commit_group(db, [CommitItem(run.run_id, run.epoch, 1, move=Park((key_of(approval_id),)))])


async def status(db: Database, approval_id: UUID) -> ApprovalStatus:
    async with db.connection() as connection:
        return (await approval_view.get(connection, "acme", approval_id)).gate.status


async def ages(db: Database, approval_id: UUID, seconds: float) -> None:
    await execute(
        db,
        """UPDATE approval SET create_time = create_time - make_interval(secs => $2),
                               next_time = next_time - make_interval(secs => $2) WHERE approval_id = $1""",
        approval_id,
        seconds,
    )


async def letters(db: Database, run: Leased) -> list[Any]:
    rows = await fetch(db, "SELECT payload FROM mailbox WHERE run_id = $1 ORDER BY sequence", run.run_id)
    return [json.loads(row["payload"]) for row in rows]


async def links_hold(db: Database) -> int:
    rows = await fetch(db, "SELECT * FROM approval_audit ORDER BY tenant, sequence")
    previous = NO_HASH
    for number, row in enumerate(rows, 1):
        assert (row["sequence"], row["previous_hash"]) == (number, previous)
        assert row["hash"] == hashlib.sha256(previous + row["content"]).digest()
        previous = row["hash"]
    return len(rows)


async def test_an_approval_wakes_the_run_that_waits_for_it_with_what_was_decided(db: Database) -> None:
    run = await running(db)
    gate = await ask(db, run)
    await park(db, run, gate)
    assert await status_of(db, run.run_id) is RunStatus.PARKED
    changed = await decide(db, "acme", gate, ANN, APPROVE, reason="fine")
    assert (changed.pools, changed.decided) == (["count@1"], [run.run_id])
    assert await status_of(db, run.run_id) is RunStatus.QUEUED
    (letter,) = await letters(db, run)
    assert (letter["status"], letter["deciders"], letter["reason"]) == ("APPROVED", ["ann"], "fine")
    assert letter["payload"] == {"amount": 7}
    assert await links_hold(db) == 3
    assert await contradictions(db) == []


async def test_a_decision_before_the_park_counts(db: Database) -> None:
    run = await running(db)
    gate = await ask(db, run)
    await decide(db, "acme", gate, ANN, DENY, reason="no")
    await park(db, run, gate)
    assert await status_of(db, run.run_id) is RunStatus.QUEUED


async def test_a_request_again_finds_the_gate_and_a_lost_lease_opens_none(db: Database) -> None:
    run = await running(db)
    first = await ask(db, run)
    again = await request(
        db, Request(run.run_id, run.epoch, "review", "Other", b"1", Policy(ANYONE, timeout=1.0))
    )
    assert (again.approval_id, again.repeated) == (first, True)
    assert await ask(db, run, "review#2") != first
    with pytest.raises(Fenced):
        await request(db, Request(run.run_id, run.epoch + 1, "x", "", b"1", Policy(ANYONE, timeout=1.0)))
    with pytest.raises(DestinationNotFound):
        await ask(db, run, "z", admin_destination="nowhere")


async def test_only_those_listed_decide_and_who_asked_does_not_approve(db: Database) -> None:
    gate = await ask(db, await running(db))
    for person in (Person("dan"), CAT):
        with pytest.raises(NotAnApprover):
            await decide(db, "acme", gate, person, APPROVE)
    with pytest.raises(ApprovalNotFound):
        await decide(db, "rival", gate, ANN, APPROVE)
    await decide(db, "acme", gate, CAT, DENY)
    assert await status(db, gate) is ApprovalStatus.DENIED


async def test_the_same_decision_is_answered_and_another_refused_with_who_decided(db: Database) -> None:
    gate = await ask(db, await running(db))
    await decide(db, "acme", gate, ANN, APPROVE)
    assert (await decide(db, "acme", gate, ANN, APPROVE)).repeated
    for person in (ANN, BOB):
        with pytest.raises(ApprovalDecided, match="APPROVED, decided by ann") as caught:
            await decide(db, "acme", gate, person, DENY)
        assert caught.value.facts["deciders"] == "ann"


async def test_a_quorum_counts_people_and_an_edit_voids_what_was_said_before(db: Database) -> None:
    gate = await ask(
        db, await running(db), required=(Quorum(2, ("group:writers", "user:ann")),), payload_editable=True
    )
    await decide(db, "acme", gate, ANN, APPROVE)
    assert await status(db, gate) is ApprovalStatus.PENDING
    await decide(db, "acme", gate, BOB, APPROVE, edited=b'{"amount":5}', revision=1)
    assert await status(db, gate) is ApprovalStatus.PENDING
    with pytest.raises(ApprovalDecided, match="bob has edited"):
        await decide(db, "acme", gate, ANN, APPROVE, revision=1)
    await decide(db, "acme", gate, ANN, APPROVE, revision=2)
    assert await status(db, gate) is ApprovalStatus.APPROVED
    with pytest.raises(InvalidField):
        await decide(db, "acme", await ask(db, await running(db)), ANN, APPROVE, edited=b"1")


async def test_its_time_decides_once_as_the_policy_says_and_no_vote_counts_after_it(db: Database) -> None:
    for default, expected in (
        (Verdict.NONE, ApprovalStatus.TIMED_OUT),
        (APPROVE, ApprovalStatus.APPROVED),
        (DENY, ApprovalStatus.DENIED),
    ):
        run = await running(db)
        gate = await ask(db, run, default=default)
        assert await fire(db) == (0, [])
        await ages(db, gate, 3601)
        with pytest.raises(ApprovalDecided):
            await decide(db, "acme", gate, ANN, APPROVE)
        await asyncio.gather(fire(db), fire(db), fire(db))
        assert await status(db, gate) is expected
        (letter,) = await letters(db, run)
        assert (letter["origin"], letter["deciders"]) == (2, [])
    assert await links_hold(db) == 6


async def test_silence_reminds_and_escalates_to_others_whose_votes_then_count(db: Database) -> None:
    await execute(
        db,
        """INSERT INTO destination (tenant, name, url, secret_name, headers, max_concurrent, max_per_second,
               timeout_ms, max_attempts, initial_backoff_ms, max_backoff_ms, delivery_mode, breaker_failures,
               breaker_reset_ms) VALUES ('acme', 'desk', 'http://x', '', '{}', 1, 0, 1, 1, 1, 1, 1, 1, 1)""",
    )
    gate = await ask(
        db,
        await running(db),
        required=(Quorum(1, ("user:nobody",)),),
        notice_destination="desk",
        admin_destination="desk",
        reminders=Reminders(60, 60, 3, "desk"),
        escalation=(Escalation(200, ANYONE, "desk", "Please!"),),
    )
    await ages(db, gate, 130)
    await fire(db)
    with pytest.raises(NotAnApprover):
        await decide(db, "acme", gate, ANN, APPROVE)
    await ages(db, gate, 100)
    await fire(db)
    await decide(db, "acme", gate, ANN, APPROVE)
    assert await status(db, gate) is ApprovalStatus.APPROVED
    rows = await fetch(db, "SELECT idempotency_key FROM effect ORDER BY seq")
    assert [row["idempotency_key"].partition("/")[2] for row in rows] == [
        "notice",
        "reminder#2",
        "reminder#3",
        "escalation#1",
    ]


async def test_the_end_of_a_run_closes_its_gates(db: Database) -> None:
    ends: list[Callable[[Leased], Any]] = [
        lambda run: finish(db, run),
        lambda run: cancel(db, "acme", run.run_id),
    ]
    for number, end in enumerate(ends):
        run = await running(db)
        gate = await ask(db, run)
        if number:
            await park(db, run, gate)
        await end(run)
        assert await status(db, gate) is ApprovalStatus.CANCELLED
        with pytest.raises(ApprovalDecided):
            await decide(db, "acme", gate, ANN, APPROVE)
    await links_hold(db)
    assert await contradictions(db) == []


async def test_of_decision_denial_timeout_and_end_exactly_one_wins(db: Database) -> None:
    for _ in range(25):
        run = await running(db)
        gate = await ask(db, run, timeout=3600.0)
        await park(db, run, gate)
        await execute(
            db,
            """UPDATE approval SET create_time = clock_timestamp() - interval '3600 s' + interval '4 ms',
                                   next_time = clock_timestamp() + interval '4 ms' WHERE approval_id = $1""",
            gate,
        )

        async def late(gate: UUID = gate) -> Any:
            while not (fired := await fire(db))[1] and await status(db, gate) is ApprovalStatus.PENDING:
                pass
            return fired[1]

        answers = await asyncio.gather(
            decide(db, "acme", gate, ANN, APPROVE),
            decide(db, "acme", gate, BOB, DENY),
            late(),
            cancel(db, "acme", run.run_id),
            return_exceptions=True,
        )
        said = [answer for answer in answers[:2] if isinstance(answer, Changed)]
        ended = await status(db, gate)
        assert (
            len(said)
            + len([1 for each in answers[2:3] if isinstance(each, list) and each])
            + (ended is ApprovalStatus.CANCELLED)
            == 1
        ), (answers, ended)
        links = await fetch(db, "SELECT FROM approval_audit WHERE approval_id = $1 AND action = 4", gate)
        assert len(links) == 1
    await links_hold(db)
    assert await contradictions(db) == []
