"""A side effect is staged in the transaction of what caused it: both become durable, or neither.

Effects of one ordering key are numbered while the row of their lane is locked, so that the order of numbers
is the order of commits. Lock order: effect_key, effect_lane, both by primary key; this is the last that a
transaction locks.
"""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from holdfast.kit.errors import DestinationNotFound, InvalidField, Violation


@dataclass(frozen=True, slots=True)
class StagedEffect:
    """A side effect on its way into the outbox; `body` is the JSON that is sent, byte for byte.

    `run_id` is None and `step` empty if a service stages it outside of a run.
    """

    effect_id: uuid.UUID
    tenant: str
    destination: str
    idempotency_key: str
    body: bytes
    run_id: uuid.UUID | None = None
    step: str = ""
    ordering_key: str = ""
    not_before: datetime | None = None
    traceparent: str = ""
    correlation_id: str = ""

    @property
    def fingerprint(self) -> bytes:
        """Tell another intent under the same idempotency key."""
        digest = hashlib.sha256()
        for part in (self.destination.encode(), self.ordering_key.encode(), self.body):
            digest.update(len(part).to_bytes(8))
            digest.update(part)
        return digest.digest()


async def stage(connection: Any, effects: Sequence[StagedEffect]) -> None:
    """Write effects into the outbox, within the caller's transaction and as the last thing it locks.

    Effects of one ordering key keep the order in which they are given. Repeatable: an idempotency key that
    already stands for the same intent is passed over. Raises, and then leaves the transaction to be rolled
    back, `DestinationNotFound` for a name the tenant does not have, and `InvalidField` for a key that stands
    for another intent or an effect id that is taken; `facts` name the effect and its run.
    """
    destinations = await _destinations(connection, effects)
    fresh = await _keyed(connection, effects)
    if not fresh:
        return
    heads = await _enter_lanes(connection, fresh, destinations)
    await _write(connection, fresh, destinations, heads)


_DESTINATIONS: Final = """
-- Find the destinations that effects name.
SELECT DISTINCT d.tenant, d.name, d.destination_id
FROM unnest($1::text[], $2::text[]) AS asked (tenant, name)
JOIN destination d ON d.tenant = asked.tenant AND d.name = asked.name
"""


async def _destinations(connection: Any, effects: Sequence[StagedEffect]) -> dict[tuple[str, str], int]:
    asked = sorted({(effect.tenant, effect.destination) for effect in effects})
    rows = await connection.fetch(_DESTINATIONS, [t for t, _ in asked], [n for _, n in asked])
    found = {(row["tenant"], row["name"]): int(row["destination_id"]) for row in rows}
    for effect in effects:
        if (effect.tenant, effect.destination) not in found:
            raise DestinationNotFound(
                f"There is no destination {effect.destination!r}; make it with PutDestination.",
                facts=_facts(effect),
            )
    return found


_TAKE_KEYS: Final = """
-- Take idempotency keys; those already taken are missing from the result.
INSERT INTO effect_key (tenant, idempotency_key, effect_id, fingerprint)
SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bytea[])
ON CONFLICT DO NOTHING
RETURNING tenant, idempotency_key
"""

_READ_KEYS: Final = """
-- See what keys stand for: a statement of its own, for the one that took them may have ended meanwhile.
SELECT k.tenant, k.idempotency_key, k.fingerprint
FROM unnest($1::text[], $2::text[]) AS asked (tenant, idempotency_key)
JOIN effect_key k ON k.tenant = asked.tenant AND k.idempotency_key = asked.idempotency_key
"""

_Key = tuple[str, str]


async def _keyed(connection: Any, effects: Sequence[StagedEffect]) -> list[StagedEffect]:
    """Take the idempotency keys, and return the effects that are new, in the order given."""
    first: dict[_Key, StagedEffect] = {}
    ids: dict[uuid.UUID, _Key] = {}
    for effect in effects:
        known = first.setdefault(_key(effect), effect)
        if known.fingerprint != effect.fingerprint:
            raise _reused(effect)
        if ids.setdefault(effect.effect_id, _key(effect)) != _key(effect):
            raise _taken(effect)
    order = sorted(first)
    rows = await connection.fetch(
        _TAKE_KEYS,
        [tenant for tenant, _ in order],
        [key for _, key in order],
        [first[key].effect_id for key in order],
        [first[key].fingerprint for key in order],
    )
    taken = {(row["tenant"], row["idempotency_key"]) for row in rows}
    if old := [key for key in order if key not in taken]:
        rows = await connection.fetch(_READ_KEYS, [tenant for tenant, _ in old], [key for _, key in old])
        for row in rows:
            effect = first[row["tenant"], row["idempotency_key"]]
            if row["fingerprint"] != effect.fingerprint:
                raise _reused(effect)
    return [effect for key, effect in first.items() if key in taken]


_ENTER_LANES: Final = """
-- Lock lanes, making those that are not in use; the head stays who it was.
INSERT INTO effect_lane AS lane (destination_id, ordering_key, head)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::uuid[])
ON CONFLICT (destination_id, ordering_key) DO UPDATE SET head = lane.head
RETURNING destination_id, ordering_key, head
"""


async def _enter_lanes(
    connection: Any, effects: Sequence[StagedEffect], destinations: dict[_Key, int]
) -> set[uuid.UUID]:
    """Lock the lanes of ordered effects and return those that are at the head of theirs."""
    first: dict[tuple[int, str], uuid.UUID] = {}
    for effect in effects:
        if effect.ordering_key:
            lane = (destinations[effect.tenant, effect.destination], effect.ordering_key)
            first.setdefault(lane, effect.effect_id)
    if not first:
        return set()
    order = sorted(first)
    rows = await connection.fetch(
        _ENTER_LANES, [d for d, _ in order], [key for _, key in order], [first[lane] for lane in order]
    )
    return {row["head"] for row in rows}


_WRITE: Final = """
-- Write effects, and where each waits for its dispatcher; the order of numbers is the order given.
WITH given AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::uuid[], $5::text[], $6::text[], $7::text[],
                         $8::text[], $9::bytea[], $10::timestamptz[], $11::boolean[], $12::text[])
        WITH ORDINALITY
        AS t (effect_id, tenant, destination_id, run_id, step, idempotency_key, ordering_key, traceparent,
              body, not_before, waits, correlation_id, place)
), written AS (
    INSERT INTO effect (effect_id, tenant, destination_id, run_id, step, idempotency_key, ordering_key,
                        traceparent, body, correlation_id, next_attempt_time)
    SELECT effect_id, tenant, destination_id, run_id, step, idempotency_key, ordering_key, traceparent, body,
           correlation_id, CASE WHEN NOT waits THEN greatest(not_before, statement_timestamp()) END
    FROM given ORDER BY place
    ON CONFLICT (effect_id) DO NOTHING
    RETURNING effect_id, seq, next_attempt_time
), due AS (
    INSERT INTO effect_due (destination_id, due_time, seq, effect_id, ordering_key)
    SELECT g.destination_id, w.next_attempt_time, w.seq, w.effect_id, g.ordering_key
    FROM written w JOIN given g USING (effect_id) WHERE NOT g.waits
), waiting AS (
    INSERT INTO effect_waiting (destination_id, ordering_key, seq, effect_id, not_before)
    SELECT g.destination_id, g.ordering_key, w.seq, w.effect_id, g.not_before
    FROM written w JOIN given g USING (effect_id) WHERE g.waits
)
SELECT effect_id FROM written
"""


async def _write(
    connection: Any,
    effects: Sequence[StagedEffect],
    destinations: dict[_Key, int],
    heads: set[uuid.UUID],
) -> None:
    rows = await connection.fetch(
        _WRITE,
        [effect.effect_id for effect in effects],
        [effect.tenant for effect in effects],
        [destinations[effect.tenant, effect.destination] for effect in effects],
        [effect.run_id for effect in effects],
        [effect.step for effect in effects],
        [effect.idempotency_key for effect in effects],
        [effect.ordering_key for effect in effects],
        [effect.traceparent for effect in effects],
        [effect.body for effect in effects],
        [effect.not_before for effect in effects],
        [bool(effect.ordering_key) and effect.effect_id not in heads for effect in effects],
        [effect.correlation_id for effect in effects],
    )
    written = {row["effect_id"] for row in rows}
    for effect in effects:
        if effect.effect_id not in written:
            raise _taken(effect)


def _key(effect: StagedEffect) -> _Key:
    return effect.tenant, effect.idempotency_key


def _reused(effect: StagedEffect) -> InvalidField:
    return _refused(effect, "idempotency_key", "stands for another destination, order or body")


def _taken(effect: StagedEffect) -> InvalidField:
    return _refused(effect, "effect_id", "belongs to another effect")


def _refused(effect: StagedEffect, field: str, problem: str) -> InvalidField:
    return InvalidField(
        f"Effect {effect.effect_id}: its {field} {problem}.",
        violations=[Violation(f"effects.{field}", problem)],
        facts=_facts(effect),
    )


def _facts(effect: StagedEffect) -> dict[str, str]:
    run = {} if effect.run_id is None else {"run_id": str(effect.run_id)}
    return {"effect_id": str(effect.effect_id), **run}
