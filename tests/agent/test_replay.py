import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256

import pytest

from holdfast.agent import App, Permanent, Run, Usage, step
from holdfast.agent.codec import canonical
from holdfast.agent.replay import Envelope, Replayed, Verdict, replay
from holdfast.agent.wire import draft as wire
from tests.agent.memory import Counter, Memory

executed = Counter()


async def double(number: int) -> int:
    executed.note(number)
    return number * 2


def an_app(body: Callable[[Run], object]) -> App:
    app = App("replays")

    @app.agent("sum")
    async def agent(run: Run) -> object:
        return await body(run)  # type: ignore[misc]

    return app


async def recorded(run: Run) -> int:
    first = await run.step(double, 1)
    run.say("halfway")
    return first + await run.step(double, 2)


async def other_input(run: Run) -> int:
    return await run.step(double, 1) + await run.step(double, 3)


async def one_more(run: Run) -> int:
    return await run.step(double, 1) + await run.step(double, 2) + await run.step(double, 3)


async def one_less(run: Run) -> int:
    return await run.step(double, 1)


async def broken(run: Run) -> int:
    raise KeyError(await run.step(double, 1))


async def patched(run: Run) -> int:
    first = await run.step(double, 1)
    return first + await run.step(double, 3 if run.patched("three") else 2)


async def verdict_on(
    body: Callable[[Run], object], memory: Memory, *, ended: bool = True, result: object = 6
) -> Replayed:
    emitted: dict[str, int] = {}
    for commit in memory.commits:
        for mark, count in commit.emitted.items():
            emitted[mark] = emitted.get(mark, 0) + count
    executed.calls.clear()
    commits = len(memory.commits)
    replayed = await replay(
        an_app(body),
        "sum",
        {},
        memory.records,
        emitted=emitted,
        status=wire.SUCCEEDED if ended else 0,
        result=result,
    )
    assert executed.calls == [], "a replay executes no step"
    assert len(memory.commits) == commits
    return replayed


@pytest.mark.parametrize(
    ("body", "verdict", "step"),
    [
        (recorded, Verdict.MATCHES, ""),
        (patched, Verdict.MATCHES, ""),
        (other_input, Verdict.DRIFTED, "double#2"),
        (one_more, Verdict.CHANGED, "double#3"),
        (one_less, Verdict.CHANGED, ""),
        (broken, Verdict.FAILS, ""),
    ],
)
async def test_todays_code_is_held_against_a_run_that_succeeded(
    body: Callable[[Run], object], verdict: Verdict, step: str
) -> None:
    memory = Memory("sum")
    await memory.run(an_app(recorded))
    replayed = await verdict_on(body, memory)
    assert (replayed.verdict, replayed.step) == (verdict, step), replayed
    assert replayed.verdict.is_fine == (verdict is Verdict.MATCHES)


async def test_a_drift_is_told_with_what_was_recorded_and_what_is_found() -> None:
    memory = Memory("sum")
    await memory.run(an_app(recorded))
    message = (await verdict_on(other_input, memory)).message
    assert '{"number":2}' in message
    assert '{"number":3}' in message


@pytest.mark.parametrize("body", [recorded, other_input, patched])
async def test_a_run_in_flight_goes_on_from_its_first_step_that_is_not_recorded(
    body: Callable[[Run], object],
) -> None:
    memory = Memory("sum")
    assert await memory.crash(an_app(recorded), 1)
    replayed = await verdict_on(body, memory, ended=False)
    assert (replayed.verdict, replayed.step) == (Verdict.GOES_ON, "double#2")


async def test_records_that_nobody_asks_for_are_named() -> None:
    memory = Memory("sum")
    await memory.run(an_app(recorded))
    assert (await verdict_on(one_less, memory)).leftover == ("double#2",)


async def test_a_run_that_passed_a_patch_passes_it_in_its_replay() -> None:
    memory = Memory("sum")
    await memory.run(an_app(patched))
    assert (await verdict_on(patched, memory, result=8)).verdict is Verdict.MATCHES


async def tells_what_it_reads(run: Run) -> int:
    told = [run.id, run.tenant, run.user, run.correlation_id, run.labels["team"], run.create_time.isoformat()]
    await run.step(double, len("".join(told)))
    await run.step(note, told)
    return 6


async def note(told: list[str]) -> int:
    return len(told)


async def test_the_agent_reads_of_its_run_what_the_run_was() -> None:
    was = Envelope("r-1", "acme", "ada", "c-7", {"team": "a"}, datetime(2026, 1, 2, tzinfo=UTC))
    told = ["r-1", "acme", "ada", "c-7", "a", "2026-01-02T00:00:00+00:00"]
    asked = canonical({"told": told})
    size = canonical({"number": len("".join(told))})
    records = [
        wire.make_record(
            name, wire.FUNCTION, sha256(name.encode() + b"\n" + given).digest(), input=given, output=b"6",
            attempts=1, usage=Usage(), duration=0.0,
        )
        for name, given in (("double", size), ("note", asked))
    ]  # fmt: skip
    app = an_app(tells_what_it_reads)
    serialized = [record.SerializeToString() for record in records]
    replayed = await replay(app, "sum", {}, serialized, envelope=was, status=wire.SUCCEEDED, result=6)
    assert replayed.verdict is Verdict.MATCHES, replayed
    other = replace(was, user="bob")
    assert (await replay(app, "sum", {}, records, envelope=other)).verdict is Verdict.DRIFTED


async def waits_for_a_word(run: Run) -> int:
    first = await run.step(double, 1)
    await run.receive("word", timeout=3600)
    return first


async def test_a_run_that_rests_goes_on_with_its_wait() -> None:
    memory = Memory("sum")
    await memory.run(an_app(waits_for_a_word))
    assert memory.parked is not None
    replayed = await verdict_on(waits_for_a_word, memory, ended=False)
    assert (replayed.verdict, replayed.step, replayed.leftover) == (Verdict.GOES_ON, "receive", ())


async def asks_a_model(run: Run) -> int:
    await run.step(double, 1)
    return len((await run.model("What now?")).content)


async def test_a_model_that_would_be_asked_is_named_and_needs_no_address() -> None:
    memory = Memory("sum")
    await memory.run(an_app(recorded))
    replayed = await verdict_on(asks_a_model, memory)
    assert (replayed.verdict, replayed.step) == (Verdict.CHANGED, "model")
    assert "step model" in replayed.message


async def never_ends(run: Run) -> int:
    await run.step(double, 1)
    await asyncio.Event().wait()
    return 6


@pytest.mark.parametrize("status", [0, wire.SUCCEEDED, wire.FAILED])
async def test_code_between_steps_that_does_not_end_is_found(status: int) -> None:
    memory = Memory("sum")
    await memory.run(an_app(recorded))
    app = an_app(never_ends)
    replayed = await replay(app, "sum", {}, memory.records, status=status, result=6, patience=0.05)
    assert (replayed.verdict, "longer than 0.05 s" in replayed.message) == (Verdict.FAILS, True), replayed


async def never(number: int) -> int:
    await asyncio.Event().wait()
    return number


def side_by_side(number: int) -> Callable[[Run], object]:
    async def body(run: Run) -> int:
        return sum(await asyncio.gather(run.step(never, 1), chain(run, number)))

    async def chain(run: Run, number: int) -> int:
        first = await run.step(double, 1)
        for _ in range(10):  # code between steps takes its turns
            await asyncio.sleep(0)
        return first + await run.step(double, number)

    return body


@pytest.mark.parametrize(("number", "verdict"), [(2, Verdict.GOES_ON), (3, Verdict.DRIFTED)])
async def test_a_branch_that_is_beyond_its_records_hides_no_drift_in_another(
    number: int, verdict: Verdict
) -> None:
    memory = Memory("sum")
    running = asyncio.create_task(memory.run(an_app(side_by_side(2))))
    async with asyncio.timeout(10):
        while len(memory.records) < 2:  # noqa: ASYNC110 -- what a ledger would say, there is none
            await asyncio.sleep(0)
    running.cancel()
    replayed = await verdict_on(side_by_side(number), memory, ended=False)
    assert replayed.verdict is verdict, replayed
    assert replayed.step == ("never" if verdict is Verdict.GOES_ON else "task#2/double#2")
    assert replayed.leftover == ()


async def test_an_intent_that_is_not_served_is_refused() -> None:
    with pytest.raises(ValueError, match="no agent for other"):
        await replay(an_app(recorded), "other", {}, [])


@pytest.mark.parametrize(("status", "wanted"), [(wire.COMPENSATED, Verdict.MATCHES), (0, Verdict.FAILS)])
async def test_a_run_whose_steps_are_undone_is_no_failure_of_todays_code(
    status: int, wanted: Verdict
) -> None:
    async def hold() -> None: ...

    async def release() -> None: ...

    async def fails(run: Run) -> None:
        await run.step(step(undo=release)(hold))
        raise Permanent("no")

    memory = Memory("sum")
    await memory.lease(an_app(fails)).run()
    assert memory.commits[-1].HasField("compensate")
    replayed = await replay(an_app(fails), "sum", {}, memory.records, status=status)
    assert replayed.verdict is wanted
    assert (replayed.message == "PERMANENT: no") == (wanted is Verdict.FAILS)
