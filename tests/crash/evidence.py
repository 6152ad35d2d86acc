"""All there is to see after a crash: the ledger's rows, what agents did, what the outside received."""

import json
import uuid
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from holdfast.v1.checkpoint_pb2 import StepRecord
from holdfast.v1.transcript_pb2 import EventBatch
from tests.crash.world import World
from tests.support.deeds import Deed
from tests.support.ledger import contradictions

_RUNS = """
SELECT s.*, r.idempotency_key, o.result, o.failure FROM run_state s JOIN run r USING (run_id)
LEFT JOIN run_outcome o USING (run_id) WHERE s.run_id = ANY ($1::uuid[]) ORDER BY s.seq"""
_LEFTOVERS = """
SELECT 'lease' AS place, count(*) FROM lease UNION ALL SELECT 'timer', count(*) FROM timer
UNION ALL SELECT 'lane', count(*) FROM lane UNION ALL SELECT 'ready', count(*) FROM ready
UNION ALL SELECT 'blocked', count(*) FROM blocked UNION ALL SELECT 'effect_due', count(*) FROM effect_due
UNION ALL SELECT 'effect_waiting', count(*) FROM effect_waiting
UNION ALL SELECT 'effect_lease', count(*) FROM effect_lease
UNION ALL SELECT 'effect_lane', count(*) FROM effect_lane"""
_LIVING = """
SELECT s.run_id::text, s.status, s.epoch, s.attempt, s.last_commit, s.pool, s.last_failure::text
FROM run_state s WHERE s.status < 5"""


@dataclass(frozen=True, slots=True)
class Effect:
    """An effect as the ledger has it."""

    run_id: str
    idempotency_key: str
    status: int
    seq: int
    ordering_key: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """What is known of some runs, and of the ledger as a whole."""

    wanted: list[str]
    runs: dict[str, Any]
    """In order of admission."""
    records: dict[str, list[StepRecord]]
    transcripts: dict[str, list[tuple[int, int, str]]]
    """Sequence, epoch and kind of each event; a note of the platform has the kind `note`."""
    effects: list[Effect]
    deeds: list[Deed]
    received: list[dict[str, Any]]
    keys: dict[str, int]
    """How many runs have an idempotency key."""
    leftovers: dict[str, int]
    contradictions: list[str]


async def collect(world: World, run_ids: Collection[str]) -> Evidence:
    """Read everything about runs."""
    ids = [uuid.UUID(run_id) for run_id in run_ids]
    async with world.ledger() as db:
        async with db.connection() as connection:
            runs = await connection.fetch(_RUNS, ids)
            records = await connection.fetch(
                "SELECT run_id, record FROM checkpoint WHERE run_id = ANY ($1) ORDER BY run_id, position", ids
            )
            batches = await connection.fetch(
                "SELECT * FROM transcript WHERE run_id = ANY ($1) ORDER BY run_id, first_sequence", ids
            )
            effects = await connection.fetch("SELECT * FROM effect WHERE run_id = ANY ($1) ORDER BY seq", ids)
            keys = await connection.fetch(
                "SELECT idempotency_key, count(*) FROM run WHERE idempotency_key = ANY ($1) GROUP BY 1",
                [run["idempotency_key"] for run in runs],
            )
            leftovers = await connection.fetch(_LEFTOVERS)
        contradicted = await contradictions(db)
    wanted = set(run_ids)
    return Evidence(
        wanted=list(run_ids),
        runs={str(run["run_id"]): run for run in runs},
        records=_records(records),
        transcripts=_transcripts(batches),
        effects=[_effect(row) for row in effects],
        deeds=[deed for deed in world.deeds() if deed.run_id in wanted],
        received=[each for each in world.receiver.received() if each["body"]["run"] in wanted],
        keys={row[0]: row[1] for row in keys},
        leftovers={row[0]: row[1] for row in leftovers if row[1]},
        contradictions=contradicted,
    )


async def living(world: World) -> list[str]:
    """Name the runs that have not ended, and where they are."""
    async with world.ledger() as db, db.connection() as connection:
        return [str(dict(row)) for row in await connection.fetch(_LIVING)]


async def undelivered(world: World) -> int:
    """Count the effects that wait."""
    async with world.ledger() as db, db.connection() as connection:
        return int(await connection.fetchval("SELECT count(*) FROM effect WHERE status = 1"))


def _records(rows: list[Any]) -> dict[str, list[StepRecord]]:
    found: dict[str, list[StepRecord]] = defaultdict(list)
    for row in rows:
        record = StepRecord.FromString(row["record"])
        if not record.intent:
            found[str(row["run_id"])].append(record)
    return found


def _transcripts(rows: list[Any]) -> dict[str, list[tuple[int, int, str]]]:
    found: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for row in rows:
        told = found[str(row["run_id"])]
        if row["events"] is None:
            told.append((row["first_sequence"], int(json.loads(row["note"]).get("epoch", 0)), "note"))
            continue
        for event in EventBatch.FromString(row["events"]).events:
            told.append((event.sequence, event.epoch, event.WhichOneof("event") or "unknown"))
    return found


def _effect(row: Any) -> Effect:
    return Effect(
        run_id=str(row["run_id"]),
        idempotency_key=row["idempotency_key"],
        status=row["status"],
        seq=row["seq"],
        ordering_key=row["ordering_key"],
        body=json.loads(row["body"]),
    )
