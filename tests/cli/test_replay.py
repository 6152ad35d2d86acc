"""`holdfast replay` against the real services: which code fits which runs, and nothing is executed."""

import asyncio
import os
import pty
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from holdfast.client import Client, Run, RunStatus
from holdfast.dev import Suite
from tests.cli.conftest import DEADLINE_S, Ended, finish, start

AGENT = """
import os
from pathlib import Path
from typing import Any

from holdfast.agent import App, Permanent, Run

app = App("desk")
print("imported")


async def look_up(name: str, run_id: str) -> str:
    with Path(os.environ["DEEDS"]).open("a") as deeds:
        deeds.write(f"looked up {name}\\n")
    return name.upper()


async def refuse() -> None:
    raise Permanent("no")


@app.agent("greet")
async def greet(run: Run, payload: dict[str, Any]) -> str:
    print("between steps")
    polite = run.patched("polite")
    name = await run.step(look_up, payload["name"], f"{run.id} {run.labels.get('team')} {run.create_time}")
    if "wait" in payload:
        name += await run.receive("go", timeout=3600)
    if "fail" in payload:
        await run.step(refuse)
    run.session["greeted"] = name
    return f"dear {name}" if polite else name


@app.agent("count")
async def count(run: Run, payload: dict[str, Any]) -> int:
    return len(await run.step(look_up, "count", "")) + run.session.get("counted", 0)
"""
OTHER_INPUT = AGENT.replace('run.step(look_up, payload["name"],', 'run.step(look_up, payload["name"] + "!",')


@pytest.fixture
async def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str) -> AsyncIterator[Suite]:
    (tmp_path / "desk.py").write_text(AGENT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("DEEDS", str(tmp_path / "deeds"))
    async with Suite(agents=["desk:app"], database_url=database_url) as running:
        yield running


@pytest.fixture
async def client(suite: Suite) -> AsyncIterator[Client]:
    async with Client(suite.addresses["invoker"], checkpoint=suite.addresses["checkpoint"]) as client:
        yield client


class Desk:
    """Somebody with a copy of the agents' code, who replays against a suite."""

    def __init__(self, addresses: Mapping[str, str], folder: Path) -> None:
        self.folder = folder
        self.deeds = folder / "deeds"
        self.environment = {
            "HOLDFAST_ADDRESS": addresses["invoker"],
            "HOLDFAST_CHECKPOINT_ADDRESS": addresses["checkpoint"],
        }

    async def start(self, *arguments: str, code: str = AGENT) -> asyncio.subprocess.Process:
        """Begin to replay with the code, in a folder of its own: the runner keeps the one it has."""
        folder = self.folder / "here"
        folder.mkdir(exist_ok=True)
        (folder / "desk.py").write_text(code)
        return await start("replay", "--agents", "desk:app", *arguments, folder=folder, **self.environment)

    async def replay(self, *arguments: str, code: str = AGENT) -> Ended:
        before = self.deeds.read_text() if self.deeds.exists() else ""
        ended = await finish(await self.start(*arguments, code=code))
        after = self.deeds.read_text() if self.deeds.exists() else ""
        assert before == after, "a replay executes no step"
        return ended


@pytest.fixture
def desk(suite: Suite, tmp_path: Path) -> Desk:
    return Desk(suite.addresses, tmp_path)


async def until(client: Client, run_id: str, *statuses: RunStatus) -> Run:
    async with asyncio.timeout(DEADLINE_S):
        while (run := await client.get_run(run_id)).status not in statuses:
            pass
    return run


async def runs_of_every_kind(client: Client) -> dict[str, str]:
    """Let runs end well, fail, rest, and belong to a session; return their ids."""
    rests = await client.invoke("greet", {"name": "rests", "wait": True})
    fails = await client.invoke("greet", {"name": "fails", "fail": True}, labels={"team": "a"})
    ends = await client.invoke("greet", {"name": "ends"}, user="ada", correlation_id="c", wait=DEADLINE_S)
    await client.invoke("count", {}, session_id="s", wait=DEADLINE_S)
    counts = await client.invoke("count", {}, session_id="s", wait=DEADLINE_S)
    assert (await until(client, fails.run_id, RunStatus.FAILED)).is_ended
    await until(client, rests.run_id, RunStatus.PARKED)
    return {"rests": rests.run_id, "fails": fails.run_id, "ends": ends.run_id, "counts": counts.run_id}


def verdicts(told: Ended) -> dict[str, Any]:
    return {row["run_id"]: row["verdict"] for row in told.json}


async def test_code_is_held_against_runs_and_executes_none_of_their_steps(client: Client, desk: Desk) -> None:
    ids = await runs_of_every_kind(client)
    deeds = desk.deeds.read_text()
    same = await desk.replay("-o", "json")
    assert same.code == 0, same.out + same.err
    assert len(same.json) == 5
    assert set(verdicts(same).values()) == {"MATCHES", "GOES_ON"}
    assert verdicts(same)[ids["rests"]] == "GOES_ON"
    assert all(row["fine"] and not row["leftover"] for row in same.json), same.out
    assert "between steps" in same.err, "what agents print is kept apart"

    other = await desk.replay("-o", "json", code=OTHER_INPUT)
    assert other.code == 1, other.err
    assert verdicts(other) == verdicts(same) | dict.fromkeys(
        (ids["rests"], ids["fails"], ids["ends"]), "DRIFTED"
    )
    drifted = next(row for row in other.json if row["run_id"] == ids["ends"])
    assert (drifted["step"], drifted["status"], drifted["fine"]) == ("look_up", "SUCCEEDED", False)
    assert "ends!" in drifted["message"]

    table = await desk.replay(code=OTHER_INPUT)
    assert table.code == 1
    assert "DRIFTED" in table.out
    assert "The code does not fit 3 of 5 runs." in table.err
    assert (await desk.replay("--intent", "count", code=OTHER_INPUT)).code == 0
    assert desk.deeds.read_text() == deeds


async def test_runs_are_chosen_by_what_they_are_or_by_name(client: Client, desk: Desk) -> None:
    ids = await runs_of_every_kind(client)
    chosen = await desk.replay("--status", "parked", "--status", "failed", "--since", "1h", "-o", "json")
    assert set(verdicts(chosen)) == {ids["rests"], ids["fails"]}
    newest = await desk.replay("--limit", "1", "-o", "json")
    assert list(verdicts(newest)) == [ids["counts"]]
    named = await desk.replay(ids["ends"], ids["rests"], ids["ends"], "-o", "json", code=OTHER_INPUT)
    assert (named.code, list(verdicts(named))) == (1, [ids["ends"], ids["rests"]])
    none = await desk.replay("--status", "cancelled")
    assert (none.code, none.out.strip()) == (0, "No runs.")


async def test_what_a_session_held_is_named_where_the_code_does_not_fit(client: Client, desk: Desk) -> None:
    run = await client.invoke("count", {}, session_id="s", wait=DEADLINE_S)
    changed = AGENT.replace('run.session.get("counted", 0)', 'run.session.get("counted", 1)')
    told = await desk.replay(run.run_id, "-o", "json", code=changed)
    assert (told.code, verdicts(told)) == (1, {run.run_id: "CHANGED"})
    assert "what its session held is not recorded" in told.json[0]["message"]


async def test_a_step_that_is_no_longer_asked_for_is_named(client: Client, desk: Desk) -> None:
    run = await client.invoke("count", {}, wait=DEADLINE_S)
    told = await desk.replay(
        run.run_id, code=AGENT.replace('await run.step(look_up, "count", "")', '"COUNT"')
    )
    assert told.code == 0, told.out
    assert "recorded and not asked for: look_up" in told.out


async def test_a_run_whose_records_are_dropped_is_not_judged(
    client: Client, desk: Desk, suite: Suite
) -> None:
    run = await client.invoke("count", {}, wait=DEADLINE_S)
    connection = await asyncpg.connect(suite.database_url)
    try:
        for table in ("checkpoint", "transcript"):
            await connection.execute(f"DELETE FROM holdfast.{table}")
    finally:
        await connection.close()
    told = await desk.replay(run.run_id, "-o", "json")
    assert (told.code, verdicts(told), told.json[0]["fine"]) == (0, {run.run_id: "NOT_JUDGED"}, None)
    assert "1 could not be judged" in (await desk.replay(run.run_id)).err


async def test_how_far_it_is_is_told_a_terminal(client: Client, desk: Desk) -> None:
    run = await client.invoke("count", {}, wait=DEADLINE_S)
    ours, theirs = pty.openpty()
    told = b""
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "holdfast.cli", "replay", "--agents", "desk:app", run.run_id),
            stdout=asyncio.subprocess.PIPE,
            stderr=theirs,
            cwd=desk.folder,
            env={**os.environ, **desk.environment},
        )
        os.close(theirs)
        out, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        told = os.read(ours, 65536)
    finally:
        os.close(ours)
    assert b"MATCHES" in out
    assert b"\r1 of 1 replayed" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["some-run", "--limit", "3"], "RUN_IDs name the runs"),
        (["--agents", "desk:nothing"], "The module desk has no app nothing"),
        (["--agents", "desk:app"], "Two of the apps have an agent for the intent"),
        (["--agents", "broken:app"], "ZeroDivisionError"),
        (["--agents", "broken:app"], "Error: The agents cannot be imported"),
        (["--intent", "sing"], "No agent here serves the intent sing; served: count, greet."),
        (["--patience", "0"], "--patience must be more than 0 seconds"),
    ],
)
async def test_what_is_typed_wrong_is_refused_before_any_service_is_asked(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "broken.py").write_text("1 / 0")
    nobody = dict.fromkeys(("invoker", "checkpoint"), "127.0.0.1:1")
    told = await Desk(nobody, tmp_path).replay(*arguments)
    assert (told.code, said in told.err, told.out) == (2, True, ""), told.err


async def test_what_the_services_refuse_is_told_apart_from_a_misfit(client: Client, desk: Desk) -> None:
    for run_id, reason in (("x", "INVALID_FIELD"), ("00000000-0000-7000-8000-000000000000", "RUN_NOT_FOUND")):
        told = await desk.replay(run_id)
        assert (told.code, reason in told.err) == (3, True), told.err
    run = await client.invoke("count", {}, wait=DEADLINE_S)
    told = await desk.replay(run.run_id, code=AGENT.replace('app.agent("count")', 'app.agent("recount")'))
    assert (told.code, "intent count, which no agent here serves" in told.err) == (2, True), told.err
    told = await desk.replay(run.run_id, "--checkpoint-address", "127.0.0.1:1")
    assert told.code == 4, told.err
    assert len([line for line in told.err.splitlines() if line.startswith("Error: ")]) == 1


async def test_a_run_that_drifted_goes_on_once_the_code_is_right(
    client: Client, desk: Desk, suite: Suite
) -> None:
    handle = await client.invoke("greet", {"name": "ada", "wait": True})
    await until(client, handle.run_id, RunStatus.PARKED)
    (runner,) = suite.runners
    running = desk.folder / "desk.py"
    running.write_text(OTHER_INPUT)
    await runner.restart()
    await client.signal(handle.run_id, "go", " at last")
    await until(client, handle.run_id, RunStatus.DRIFTED)
    wrong = await desk.replay(handle.run_id, "-o", "json", code=OTHER_INPUT)
    assert (wrong.code, verdicts(wrong)) == (1, {handle.run_id: "DRIFTED"})
    right = await desk.replay(handle.run_id, "-o", "json")
    assert (right.code, verdicts(right)) == (0, {handle.run_id: "GOES_ON"})
    assert right.json[0]["status"] == "DRIFTED"
    running.write_text(AGENT)
    await runner.restart()
    await client.retry(handle.run_id)
    await client.signal(handle.run_id, "go", " at last")  # what nobody received ended with the run
    run = await until(client, handle.run_id, RunStatus.SUCCEEDED, RunStatus.DRIFTED)
    assert run.outcome is not None
    assert run.outcome.result == "dear ADA at last"
    assert desk.deeds.read_text() == "looked up ada\n"
    ended = await desk.replay(handle.run_id, "-o", "json")
    assert (ended.code, verdicts(ended)) == (0, {handle.run_id: "MATCHES"})
