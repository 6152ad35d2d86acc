"""Turns a group of commits into the columns that the statements of `commit_sql` unnest."""

from collections.abc import Sequence
from typing import Any

from holdfast.ledger.commit_value import CommitItem


def columns(items: Sequence[CommitItem]) -> list[list[Any]]:
    """Return the 19 columns in the order of the statements' parameters.

    `items` are in the order in which their rows are to be locked: by run id.
    """
    head: list[tuple[Any, ...]] = []
    records: tuple[list[int], list[int], list[str], list[bytes]] = ([], [], [], [])
    events: tuple[list[int], list[bytes], list[str | None]] = ([], [], [])
    of_index, ordinals, keys, bodies = records
    for index, item in enumerate(items):
        charge = item.charge
        happened = item.happened
        first = last = 0
        if happened is not None:
            first, last = happened.first_sequence, happened.last_sequence
            events[0].append(index)
            events[1].append(happened.events)
            events[2].append(happened.emitted)
        head.append(
            (
                index,
                item.run_id,
                item.epoch,
                item.number,
                len(item.records),
                charge.steps,
                charge.tools,
                charge.tokens,
                charge.lead_tokens,
                charge.context,
                first,
                last,
            )
        )
        for ordinal, record in enumerate(item.records, 1):
            of_index.append(index)
            ordinals.append(ordinal)
            keys.append(record.key)
            bodies.append(record.record)
    return [*map(list, zip(*head, strict=True)), *records, *events]
