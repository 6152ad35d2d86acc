"""Turns a group of commits into the columns that the statements of `commit_sql` unnest."""

from collections.abc import Sequence
from typing import Any

from holdfast.ledger.commit_fate import Fate
from holdfast.ledger.commit_value import CommitItem

_WITHOUT_EVENTS = (0, 0, None, None)
_WITHOUT_UNDO = (0, None)
_WITHOUT_OUTCOME = (None, None, 0)


def progress_columns(items: Sequence[CommitItem]) -> list[list[Any]]:
    """Return the parameters of `commit_sql.progress`.

    `items` are in the order in which their rows are to be locked: by run id.
    """
    keys: list[str] = []
    records: list[bytes] = []
    rows: list[tuple[Any, ...]] = []
    for index, item in enumerate(items):
        charge = item.charge
        happened = item.happened
        rows.append(
            (
                index,
                item.run_id,
                item.epoch,
                item.number,
                len(keys) + 1,
                len(item.records),
                charge.steps,
                charge.tools,
                charge.tokens,
                charge.lead_tokens,
                charge.context,
            )
            + (
                _WITHOUT_EVENTS
                if happened is None
                else (happened.first_sequence, happened.last_sequence, happened.events, happened.emitted)
            )
            + (_WITHOUT_UNDO if item.undo is None else (int(item.undo.on), item.undo.within_ms))
        )
        for record in item.records:
            keys.append(record.key)
            records.append(record.record)
    return [keys, records, *map(list, zip(*rows, strict=True))]


def move_columns(items: Sequence[CommitItem], fates: Sequence[Fate]) -> list[list[Any]]:
    """Return the parameters of `commit_sql.move`."""
    rows = [_fate(fate) for fate in fates]
    return [*progress_columns(items), *map(list, zip(*rows, strict=True))]


def _fate(fate: Fate) -> tuple[Any, ...]:
    outcome = fate.outcome
    ended: tuple[Any, ...] = _WITHOUT_OUTCOME
    if outcome is not None:
        failure = outcome.failure.to_json() if outcome.failure else None
        ended = (outcome.result, failure, int(outcome.exhausted))
    return (int(fate.status), fate.uncounted, fate.last_failure, fate.note, *ended)
