"""The invariants, each a check of the evidence: `Broken` names everything that does not hold.

Numbers are those of the promises: 1 nothing acknowledged is lost and no key makes two runs, 2 what is
committed is never executed again, 3 a stream applied in order is the transcript, 4 charged is what is
recorded, 5 effects go with what caused them and once, 9 runs of a key neither overlap nor reorder, 11 every
run reaches an end.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise

from holdfast.client import EffectStatus, RunStatus
from tests.crash.evidence import Evidence, collect, living, undelivered
from tests.crash.load import Load, Watched
from tests.crash.world import World

PATIENCE_S = 60.0


class Broken(AssertionError):  # noqa: N818 - what is raised is that a promise is broken
    """Promises that were not kept."""


async def settled(world: World, patience: float = PATIENCE_S) -> None:
    """Wait until every run has ended and every effect has gone; `Broken` says which have not (11)."""

    async def nothing_lives() -> bool:
        return not await living(world) and not await undelivered(world)

    try:
        await world.until(nothing_lives, "every run ends, every effect goes", patience)
    except TimeoutError:
        raise Broken(
            f"11: after {patience} s there wait {await undelivered(world)} effects and the runs "
            + "\n".join(await living(world))
        ) from None


async def kept(world: World, load: Load) -> Evidence:
    """Check everything about a load, once all of it has come to rest."""
    await settled(world)
    await load.watchers()
    evidence = await collect(world, load.run_ids)
    problems = [*load.contradicted, *_all(evidence), *_streams(evidence, load.watched)]
    if problems:
        raise Broken("\n".join(problems))
    return evidence


async def kept_of(
    world: World, run_ids: Collection[str], status: RunStatus = RunStatus.SUCCEEDED
) -> Evidence:
    """Check everything about some runs, once all has come to rest."""
    await settled(world)
    evidence = await collect(world, run_ids)
    problems = _all(evidence, status)
    if problems:
        raise Broken("\n".join(problems))
    return evidence


def _all(evidence: Evidence, status: RunStatus = RunStatus.SUCCEEDED) -> list[str]:
    checks: Sequence[Callable[[Evidence], Iterator[str]]] = (
        _once, _recorded, _usage, _effects, _effect_order, _keys, _transcript, _rest
    )  # fmt: skip
    return [*_ends(evidence, status), *(problem for check in checks for problem in check(evidence))]


def _ends(evidence: Evidence, status: RunStatus) -> Iterator[str]:
    for run_id in evidence.wanted:
        run = evidence.runs.get(run_id)
        if run is None:
            yield f"1: the acknowledged run {run_id} is lost"
        elif run["status"] != status:
            yield f"11: run {run_id} is {RunStatus(run['status']).name}: {run['failure']}"
    for key, count in evidence.keys.items():
        if count != 1:
            yield f"1: the key {key} has {count} runs"


def _once(evidence: Evidence) -> Iterator[str]:
    """No step is executed after its commit was acknowledged, and what was acknowledged is recorded."""
    passed: set[tuple[str, str]] = set()
    for deed in evidence.deeds:
        step = (deed.run_id, deed.step)
        if deed.what == "executed" and step in passed:
            yield f"2: {deed.step} of {deed.run_id} was executed after its commit was acknowledged"
        elif deed.what == "passed":
            passed.add(step)
    for run_id, key in passed - {(r, record.key) for r, each in evidence.records.items() for record in each}:
        yield f"2: {key} of {run_id} was acknowledged and is not recorded"


def _recorded(evidence: Evidence) -> Iterator[str]:
    """Each step has one record, of an execution that happened."""
    executed: dict[tuple[str, str], list[str]] = defaultdict(list)
    for deed in evidence.deeds:
        if deed.what == "executed":
            executed[deed.run_id, deed.step].append(deed.token)
    for run_id, records in evidence.records.items():
        for key, count in Counter(record.key for record in records).items():
            if count != 1:
                yield f"2: {key} of {run_id} has {count} records"
        for record in records:
            done = executed.get((run_id, record.key))
            if done is not None and json.loads(record.output)["token"] not in done:
                yield f"2: the record of {record.key} of {run_id} is of no execution"


def _family(evidence: Evidence, run_id: str) -> list[str]:
    """Return a run and those started below it: their ends are charged to it, too."""
    found = [run_id]
    for each in found:
        found += [child for child, run in evidence.runs.items() if str(run["parent_run_id"]) == each]
    return found


def _usage(evidence: Evidence) -> Iterator[str]:
    for run_id, run in evidence.runs.items():
        records = [record for each in _family(evidence, run_id) for record in evidence.records.get(each, [])]
        for name in ("steps", "tools", "tokens"):
            recorded = sum(getattr(record.usage, name) for record in records)
            if run[name] != recorded:
                yield f"4: run {run_id} is charged {run[name]} {name}, and {recorded} are recorded"
            if run[name] > run[f"max_{name}"]:
                yield f"4: run {run_id} has spent {run[name]} {name} of {run[f'max_{name}']}"


def _effects(evidence: Evidence) -> Iterator[str]:
    recorded = {
        (run_id, record.key): json.loads(record.output).get("token")
        for run_id, records in evidence.records.items()
        for record in records
        if record.output[:1] == b"{"
    }
    received = Counter(each["idempotency_key"] for each in evidence.received)
    applied = Counter(each["idempotency_key"] for each in evidence.received if each["applied"])
    for effect in evidence.effects:
        key, body = effect.idempotency_key, effect.body
        if recorded.get((effect.run_id, body["step"])) != body["token"]:
            yield f"5: the effect {key} is of an execution that is not recorded"
        if effect.status != EffectStatus.DELIVERED:
            yield f"5: the effect {key} is {EffectStatus(effect.status).name}"
        if received[key] < 1 or applied[key] != 1:
            yield f"5: the effect {key} came {received[key]} times and was applied {applied[key]} times"
    for key in received.keys() - {effect.idempotency_key for effect in evidence.effects}:
        yield f"5: the effect {key} came, and nobody has committed it"
    of_execution = Counter(
        (each.body["run"], each.body["step"], each.body["what"]) for each in evidence.effects
    )
    for intent, count in of_execution.items():
        if count != 1:
            yield f"5: the intent {intent} has {count} keys"


def _effect_order(evidence: Evidence) -> Iterator[str]:
    came = {each["idempotency_key"]: at for at, each in enumerate(evidence.received) if each["applied"]}
    lanes: dict[str, list[int]] = defaultdict(list)
    for effect in evidence.effects:
        if effect.ordering_key and effect.idempotency_key in came:
            lanes[effect.ordering_key].append(came[effect.idempotency_key])
    for lane, order in lanes.items():
        if order != sorted(order):
            yield f"5: the effects of {lane} came out of order"


def _keys(evidence: Evidence) -> Iterator[str]:
    """Of runs of one ordering key, all that one did comes before anything the next did."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for at, deed in enumerate(evidence.deeds):
        first.setdefault(deed.run_id, at)
        last[deed.run_id] = at
    lanes: dict[str, list[str]] = defaultdict(list)
    for run_id, run in evidence.runs.items():  # in order of admission
        if run["ordering_key"] and run_id in first:
            lanes[run["ordering_key"]].append(run_id)
    for lane, runs in lanes.items():
        for before, after in pairwise(runs):
            if first[after] < last[before]:
                yield f"9: {after} of {lane} began before {before} was over"


def _transcript(evidence: Evidence) -> Iterator[str]:
    for run_id, run in evidence.runs.items():
        told = evidence.transcripts.get(run_id, [])
        if [sequence for sequence, _, _ in told] != list(range(1, run["last_sequence"] + 1)):
            yield f"3: the transcript of {run_id} has gaps: {told}"
        if any(after < before for (_, before, _), (_, after, _) in pairwise(told)):
            yield f"3: the epochs of {run_id} fall: {told}"
        finished = Counter(kind for _, _, kind in told)["step_finished"]
        if finished != len(evidence.records.get(run_id, [])):
            yield f"3: {run_id} tells of {finished} steps and has {len(evidence.records[run_id])}"


def _streams(evidence: Evidence, watched: Sequence[Watched]) -> Iterator[str]:
    for each in watched:
        told = evidence.transcripts.get(each.run_id, [])
        seen = [(event.sequence, event.epoch) for event in each.events]
        if seen != [(sequence, epoch) for sequence, epoch, _ in told]:
            yield f"3: a watcher of {each.run_id} holds {seen}, and it is {told}"


def _rest(evidence: Evidence) -> Iterator[str]:
    for contradiction in evidence.contradictions:
        yield f"11: {contradiction}"
    for place, count in evidence.leftovers.items():
        yield f"11: {count} rows are left in {place}"
