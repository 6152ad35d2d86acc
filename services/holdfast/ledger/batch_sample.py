"""A sample of a batch's staged outputs: the same for the same seed, spread over strata.

The order of a draw is that of a hash of index and seed, which PostgreSQL keeps stable (its partitions rest on
it); so nothing is stored, and what was judged meanwhile does not change the order of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.ledger.domain.batch import ItemStatus
from holdfast.ledger.domain.batch_sample import Strata, allot

MOST_STRATA: Final = 1000
"""Strata of a sample: rarer classes beyond them are not drawn from."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A stratum, how many staged items it has, and the indexes of those drawn, rising."""

    label: str
    confidence_band: int
    cost_band: int
    population: int
    indexes: tuple[int, ...] = ()


_STRATUM: Final = """
    CASE WHEN $3::boolean THEN i.label ELSE '' END AS label,
    CASE WHEN cardinality($4::float8[]) > 0
         THEN width_bucket(coalesce(i.confidence, 0), $4) ELSE 0 END AS sure,
    CASE WHEN cardinality($5::bigint[]) > 0 THEN width_bucket(i.tokens, $5) ELSE 0 END AS cost
"""
POPULATIONS: Final = f"""
SELECT label, sure, cost, count(*) AS n
FROM (SELECT {_STRATUM} FROM batch_item i WHERE i.batch_id = $1 AND i.status = ANY($2::smallint[])) s
GROUP BY label, sure, cost ORDER BY n DESC, label, sure, cost LIMIT {MOST_STRATA}
"""  # noqa: S608 - composed of our own constants
DRAW: Final = f"""
WITH wanted AS MATERIALIZED (
    SELECT * FROM unnest($7::text[], $8::int[], $9::int[], $10::bigint[]) AS w (label, sure, cost, take)
)
SELECT r.index, r.label, r.sure, r.cost FROM (
    SELECT s.*, row_number() OVER (PARTITION BY label, sure, cost ORDER BY hashint8extended(index, $6), index)
        AS place
    FROM (SELECT i.index, {_STRATUM} FROM batch_item i
          WHERE i.batch_id = $1 AND i.status = ANY($2::smallint[])) s
) r
JOIN wanted w ON w.label = r.label AND w.sure = r.sure AND w.cost = r.cost AND r.place <= w.take
ORDER BY r.index
"""  # noqa: S608 - composed of our own constants


async def draw(
    connection: Connection,
    batch_id: UUID,
    size: int,
    strata: Strata,
    *,
    seed: int,
    unjudged_only: bool = False,
) -> list[Drawn]:
    """Draw `size` items, or all there are. Reads each staged item of the batch once or twice."""
    statuses = [int(ItemStatus.STAGED)]
    if not unjudged_only:
        statuses += [int(ItemStatus.ACCEPTED), int(ItemStatus.REJECTED)]
    which = (
        batch_id,
        statuses,
        strata.by_label,
        list(strata.confidence_bounds),
        list(strata.token_bounds),
    )
    found = await connection.fetch(POPULATIONS, *which)
    takes = allot([row["n"] for row in found], size, equal=strata.equal)
    rows = await connection.fetch(
        DRAW,
        *which,
        seed,
        [row["label"] for row in found],
        [row["sure"] for row in found],
        [row["cost"] for row in found],
        takes,
    )
    indexes: dict[tuple[Any, ...], list[int]] = {}
    for row in rows:
        indexes.setdefault(_place(row), []).append(row["index"])
    return [_drawn(row, indexes.get(_place(row), ())) for row in found]


def _place(row: Any) -> tuple[Any, ...]:
    return row["label"], row["sure"], row["cost"]


def _drawn(row: Any, indexes: Sequence[int]) -> Drawn:
    return Drawn(row["label"], row["sure"], row["cost"], row["n"], tuple(indexes))
