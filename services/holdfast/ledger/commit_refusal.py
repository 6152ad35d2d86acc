"""Says of commits that did not land why, or that they are stored already."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.kit.errors import (
    BudgetExceeded,
    CommitOutOfOrder,
    Fault,
    Fenced,
    InvalidField,
    LedgerUnavailable,
    RunNotFound,
    Violation,
)
from holdfast.ledger import commit_sql
from holdfast.ledger.commit_value import CommitItem, CommitResult, Park, Refused, Stored
from holdfast.ledger.domain.budget import Limits, Usage
from holdfast.ledger.domain.commit import Attempted, Standing, Verdict, overspent, verdict
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.values import Outcome


async def answered(
    connection: Any, items: Sequence[CommitItem], landed: dict[int, Stored]
) -> list[CommitResult]:
    """Answer each commit, asking for the reason of those that have not landed.

    In a statement of its own: the one that did not find them has seen an older state.
    """
    missing = [at for at in range(len(items)) if at not in landed]
    if not missing:
        return [landed[at] for at in range(len(items))]
    answers: dict[int, CommitResult] = dict(landed)
    answers.update(zip(missing, await _explain(connection, [items[at] for at in missing]), strict=True))
    return [answers[at] for at in range(len(items))]


async def _explain(connection: Any, items: Sequence[CommitItem]) -> list[CommitResult]:
    """Read where the runs stand and answer for each commit, in order."""
    rows = await connection.fetch(commit_sql.STANDING, [item.run_id for item in items])
    found = {row["run_id"]: row for row in rows}
    return [_answer(item, found) for item in items]


def _answer(item: CommitItem, found: Mapping[uuid.UUID, Any]) -> CommitResult:
    row = found.get(item.run_id)
    standing = None if row is None else _standing(row)
    first = item.happened.first_sequence if item.happened else 0
    attempted = Attempted(item.epoch, item.number, first, item.charge, _end_of(item))
    reason = verdict(attempted, standing)
    if reason is Verdict.STORED and row is not None:
        return Stored(RunStatus(row["status"]), row["cancel_requested"])
    return Refused(_fault(reason, item, standing), retryable=reason is Verdict.LANDS)


def _end_of(item: CommitItem) -> RunStatus | None:
    if isinstance(item.move, Park):
        return RunStatus.PARKED
    return item.move.status if isinstance(item.move, Outcome) else None


def _standing(row: Any) -> Standing:
    return Standing(
        status=RunStatus(row["status"]),
        epoch=row["epoch"],
        last_commit=row["last_commit"],
        last_sequence=row["last_sequence"],
        spent=Usage(row["steps"], row["tools"], row["tokens"], row["context"]),
        limits=Limits(
            max_steps=row["max_steps"],
            max_tools=row["max_tools"],
            max_tokens=row["max_tokens"],
            max_context=row["max_context"],
        ),
        undoing=row["undoing"],
    )


def _fault(reason: Verdict, item: CommitItem, run: Standing | None) -> Fault:
    facts = {"run_id": str(item.run_id)}
    if reason is Verdict.NOT_FOUND or run is None:
        return RunNotFound("There is no such run.", facts=facts)
    if reason is Verdict.FENCED:
        return Fenced(f"The lease of epoch {item.epoch} has ended; commit nothing more.", facts=facts)
    if reason is Verdict.OUT_OF_ORDER:
        return CommitOutOfOrder(
            f"The next commit is number {run.last_commit + 1}, not {item.number}.", facts=facts
        )
    if reason in (Verdict.SEQUENCE, Verdict.MISPLACED):
        return _malformed(reason, run, facts)
    if reason is Verdict.OVERSPENT:
        dimension = overspent(item.charge, run).name
        sentence = f"The commit would spend more {dimension.lower()} than the run's budget has."
        return BudgetExceeded(sentence, facts={**facts, "dimension": dimension}, quota=dimension)
    return LedgerUnavailable("The run changed while the commit was on its way; send it again.", facts=facts)


def _malformed(reason: Verdict, run: Standing, facts: dict[str, str]) -> Fault:
    if reason is Verdict.MISPLACED:
        wrong = Violation("move", f"must not be: {reason.value}")
        return InvalidField("The run cannot go there.", facts=facts, violations=[wrong])
    wrong = Violation("events.events[0].sequence", f"must be {run.last_sequence + 1}")
    return InvalidField("The events do not follow the last committed one.", facts=facts, violations=[wrong])
