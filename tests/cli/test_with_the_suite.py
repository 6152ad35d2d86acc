"""The command line against the real services: what a newcomer types after `holdfast dev`."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from examples.standins.fault import Fault
from examples.standins.webhook_receiver import WebhookReceiver
from holdfast.dev import Suite
from tests.cli.conftest import DEADLINE_S, Ended, finish, start

AGENT = """
import asyncio
from typing import Any

from holdfast.agent import App, Run

app = App("desk")


async def look_up(name: str) -> str:
    return name.upper()


async def think(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@app.agent("greet")
async def greet(run: Run, payload: dict[str, Any]) -> str:
    name = await run.step(look_up, payload["name"])
    run.say(f"Hello {name}")
    if "tell" in payload:
        run.send(payload["tell"], {"greeted": name})
    if "think" in payload:
        await run.expect(payload["think"])
        await run.step(think, payload["think"])
    if "ask" in payload:
        people = ["user:ann", "group:it"]
        verdict = await run.approval("review", payload=payload, approvers=people, timeout=3600)
        return f"{verdict.status} {verdict.payload}"
    run.session["greeted"] = [*run.session.get("greeted", []), name]
    return f"greeted {name}"
"""


@pytest.fixture
async def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str) -> AsyncIterator[Suite]:
    (tmp_path / "desk.py").write_text(AGENT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with Suite(agents=["desk:app"], database_url=database_url) as running:
        yield running


class Terminal:
    """Somebody typing in a folder, against a suite."""

    def __init__(self, suite: Suite, folder: Path) -> None:
        self._folder = folder
        self._environment = {
            "HOLDFAST_ADDRESS": suite.addresses["invoker"],
            "HOLDFAST_DISPATCHER_ADDRESS": suite.addresses["dispatcher"],
            "HOLDFAST_CHECKPOINT_ADDRESS": suite.addresses["checkpoint"],
            "HOLDFAST_APPROVAL_ADDRESS": suite.addresses["approval"],
        }

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await start(*arguments, folder=self._folder, **self._environment)

    async def type(self, *arguments: str, given: str = "") -> Ended:
        return await finish(await self.start(*arguments), given)

    async def delivered(self) -> list[Any]:
        """Wait until effects are delivered, and list them."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                told = await self.type("outbox", "list", "--status", "delivered", "-o", "json")
                if told.json:
                    return told.json


@pytest.fixture
def terminal(suite: Suite, tmp_path: Path) -> Terminal:
    return Terminal(suite, tmp_path)


async def test_a_run_is_invoked_watched_read_and_its_effect_delivered(terminal: Terminal) -> None:
    async with WebhookReceiver() as crm:
        put = await terminal.type("outbox", "put-destination", "crm", f"{crm.url}/in")
        assert put.code == 0, put.err
        told = await terminal.type("invoke", "greet", "-d", '{"name": "Ada", "tell": "crm"}', "--watch")
        assert told.code == 0, told.err
        assert "Hello ADA" in told.out
        assert '"greeted ADA"' in told.out
        runs = (await terminal.type("runs", "list", "-o", "json")).json
        assert [(run["intent"], run["status"]) for run in runs] == [("greet", "SUCCEEDED")]
        read = await terminal.type("runs", "get", runs[0]["run_id"])
        assert "SUCCEEDED" in read.out
        listed = await terminal.delivered()
    assert (listed[0]["run_id"], listed[0]["destination"]) == (runs[0]["run_id"], "crm")
    assert [delivery.applied for delivery in crm.deliveries] == [True]


async def test_dead_letters_are_shown_and_sent_again_by_destination(terminal: Terminal) -> None:
    async with WebhookReceiver() as crm:
        await terminal.type("outbox", "put-destination", "crm", f"{crm.url}/in")
        listing = ("outbox", "list", "--status", "dead_lettered", "-o", "json")
        crm.faults.add(Fault("422"))
        await terminal.type("invoke", "greet", "-d", '{"name": "Ada", "tell": "crm"}', "--watch")
        async with asyncio.timeout(DEADLINE_S):
            while not (dead := await terminal.type(*listing)).json:
                pass
        shown = await terminal.type("outbox", "retry", "--destination", "crm")
        assert shown.code == 0, shown.err
        assert shown.out.splitlines() == [dead.json[0]["effect_id"], "1 effect matches; --yes does it: retry"]
        assert (await terminal.type("outbox", "retry")).code == 2  # which ones?
        done = await terminal.type("outbox", "retry", "--destination", "crm", "--yes")
        assert done.out == "retry: 1 done, 0 passed over\n"
        await terminal.delivered()
        none = await terminal.type(
            "outbox", "discard", "--destination", "crm", "--reason", "old", "-o", "json"
        )
        assert [(each["matched"], each["finished"]) for each in none.json] == [(0, True)]
    assert [delivery.status for delivery in crm.deliveries] == [422, 200]


async def test_people_decide_what_waits_for_them_and_the_record_of_it_holds(terminal: Terminal) -> None:
    asked = await terminal.type("invoke", "greet", "-d", '{"name": "Ada", "ask": true}', "-o", "json")
    run_id = asked.json[0]["run_id"]
    async with asyncio.timeout(DEADLINE_S):
        while not (waiting := (await terminal.type("approvals", "list", "-o", "json")).json):
            pass
    (gate,) = waiting
    assert (gate["run_id"], gate["required"]) == (run_id, ["1 of user:ann, group:it"])
    assert (await terminal.type("approvals", "list", "--mine", "--as", "bob", "-o", "json")).json == []
    refused = await terminal.type("approvals", "deny", gate["approval_id"], "--as", "bob")
    assert (refused.code != 0, "may not decide" in refused.err) == (True, True)
    nobody = await terminal.type("approvals", "approve", gate["approval_id"])
    assert (nobody.code != 0, "holdfast-user" in nobody.err) == (True, True)
    mine = await terminal.type("approvals", "list", "--mine", "--as", "bob", "--group", "it")
    assert gate["approval_id"] in mine.out
    approved = await terminal.type(
        "approvals", "approve", gate["approval_id"], "--as", "bob", "--group", "it", "--reason", "fine"
    )
    assert (approved.code, "APPROVED" in approved.out) == (0, True), approved.err
    other = await terminal.type("approvals", "deny", gate["approval_id"], "--as", "ann")
    assert (other.code != 0, "decided by bob" in other.err) == (True, True)
    assert (await terminal.type("runs", "wait", run_id)).code == 0
    read = await terminal.type("approvals", "get", gate["approval_id"])
    assert "bob approves" in read.out
    holds = await terminal.type("approvals", "verify", "-o", "json")
    assert (holds.code, holds.json[0]["entries"]) == (0, 3)


async def test_events_of_one_key_make_one_run(terminal: Terminal) -> None:
    event = json.dumps({"intent": "greet", "idempotency_key": "e1", "payload": {"name": "Ada"}})
    told = await terminal.type("events", "publish", "-o", "json", given=f"{event}\n{event}\n")
    assert told.code == 0, told.err
    assert [answer["duplicate"] for answer in told.json] == [False, True]
    assert len({answer["run_id"] for answer in told.json}) == 1
    ended = await terminal.type("runs", "wait", told.json[0]["run_id"])
    assert ended.code == 0


async def test_ctrl_c_cancels_a_conversation_and_retry_takes_it_up_again(terminal: Terminal) -> None:
    process = await terminal.start("converse", "greet", "-d", '{"name": "Ada", "think": 3}')
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        while b"Hello" not in await process.stdout.readline():
            pass
    process.send_signal(signal.SIGINT)
    told = await finish(process)
    assert told.code == 130, told.err
    assert "CANCELLED" in told.out
    run = (await terminal.type("runs", "list", "-o", "json")).json[0]
    assert run["status"] == "CANCELLED"
    assert (await terminal.type("runs", "retry", run["run_id"])).code == 0
    again = await terminal.type("runs", "watch", run["run_id"], "--after", str(run["last_sequence"]))
    assert again.code == 0, again.err
    assert '"greeted ADA"' in again.out


async def test_a_conversation_is_shown_and_forgotten(terminal: Terminal) -> None:
    for name in ("Ada", "Bob"):
        told = await terminal.type(
            "invoke", "greet", "-d", json.dumps({"name": name}), "--session", "s", "--watch"
        )
        assert told.code == 0, told.err
    shown = await terminal.type("sessions", "get", "s", "-o", "json")
    assert (shown.json[0]["state"], shown.json[0]["version"]) == ({"greeted": ["ADA", "BOB"]}, 2)
    read = await terminal.type("sessions", "get", "s")
    assert '"BOB"' in read.out
    runs = (await terminal.type("sessions", "runs", "s", "-o", "json")).json
    assert [run["session_id"] for run in runs] == ["s", "s"]
    assert runs[0]["run_id"] == shown.json[0]["run_id"]
    assert "s" in (await terminal.type("sessions", "delete", "s")).out
    gone = await terminal.type("sessions", "get", "s")
    assert (gone.code, gone.err.split(":")[1].strip()) == (3, "SESSION_NOT_FOUND")
    both = await terminal.type("invoke", "greet", "--session", "s", "--ordering-key", "k")
    assert both.code == 3
    assert "ordering_key" in both.err


async def test_a_run_that_would_miss_its_deadline_is_handed_off(terminal: Terminal) -> None:
    slow = ("-d", '{"name": "Ada", "think": 8}', "--budget", "deadline=5s", "--handoff-deadline", "2m")
    talk = await terminal.type("converse", "greet", *slow, "--key", "k")
    assert talk.code == 0, talk.err
    assert "handed off" in talk.out
    (follow,) = [line.strip() for line in talk.out.splitlines() if "holdfast runs watch" in line]
    run = (await terminal.type("runs", "list", "-o", "json")).json[0]
    assert (run["status"], run["handed_off"]) == ("RUNNING", True)
    assert "(in the background)" in (await terminal.type("runs", "get", run["run_id"])).out
    waits = await terminal.type("invoke", "greet", *slow, "--key", "k", "--wait", "60s")
    assert waits.code == 6, waits.err
    assert f"holdfast runs watch {run['run_id']}" in waits.out
    watched = await terminal.type(*follow.partition("holdfast ")[2].split())
    assert watched.code == 0, watched.err
    assert '"greeted ADA"' in watched.out


async def test_refusals_of_the_services_are_sentences(terminal: Terminal) -> None:
    unknown = await terminal.type("invoke", "nonsense")
    assert unknown.code == 3
    assert unknown.err.startswith("Error: UNKNOWN_INTENT: ")
    assert "greet" in unknown.err
    missing = await terminal.type("runs", "get", "00000000-0000-7000-8000-000000000000")
    assert (missing.code, missing.err.split(":")[1].strip()) == (3, "RUN_NOT_FOUND")
    malformed = await terminal.type("runs", "get", "x")
    assert malformed.code == 3
    assert "run_id" in malformed.err
    lines = [line for told in (unknown, missing, malformed) for line in told.err.splitlines()]
    assert len(lines) == 3


async def test_a_fork_goes_on_from_an_edited_step_and_sends_no_effect_twice(terminal: Terminal) -> None:
    async with WebhookReceiver() as crm:
        put = await terminal.type("outbox", "put-destination", "crm", f"{crm.url}/in")
        assert put.code == 0, put.err
        payload = '{"name": "Ada", "tell": "crm", "think": 0.01}'
        assert (await terminal.type("invoke", "greet", "-d", payload, "--watch")).code == 0
        (run,) = (await terminal.type("runs", "list", "-o", "json")).json
        recorded = (await terminal.type("runs", "checkpoints", run["run_id"], "-o", "json")).json
        assert [(one["position"], one["key"], one["output"]) for one in recorded] == [
            (1, "look_up", "ADA"),
            (2, "think", 0.01),
        ]
        shown = (await terminal.type("runs", "checkpoints", run["run_id"])).out
        assert shown.splitlines()[0].split() == [
            "AT",
            "STEP",
            "KIND",
            "TRIES",
            "TIME",
            "TOKENS",
            "INPUT",
            "OUTPUT",
        ]
        forked: list[str] = []
        for at in ("1", "2"):
            edit = ("--set", 'look_up="BOB"', "--key", f"k{at}")
            arguments = ("runs", "fork", run["run_id"], "--at", at, *edit)
            first, again = [(await terminal.type(*arguments, "-o", "json")).json[0] for _ in range(2)]
            assert (first["reattached"], again["reattached"]) == (False, True)
            assert first["run_id"] == again["run_id"]
            forked.append(first["run_id"])
            ended = await terminal.type("runs", "wait", forked[-1], "-o", "json")
            assert ended.code == 0, ended.out
            assert ended.json[0]["outcome"]["result"] == "greeted BOB"
            assert ended.json[0]["forked_from"] == {"run_id": run["run_id"], "position": int(at)}
        listed = (await terminal.type("outbox", "list", "-o", "json")).json  # delivered or not
    # At the second step the first run had told the CRM already; at the first it had not.
    assert sorted(effect["run_id"] for effect in listed) == sorted([run["run_id"], forked[0]])
    refused = await terminal.type("runs", "fork", run["run_id"], "--at", "9")
    assert (refused.code, refused.err.split(":")[1].strip()) == (3, "INVALID_FIELD")


async def test_runs_are_held_and_let_go_one_or_all_that_match(terminal: Terminal) -> None:
    payload = json.dumps({"name": "Ada", "think": 6.0, "ask": True})
    asked = ("invoke", "greet", "-d", payload, "--label", "lot=7", "-o", "json")
    runs = [(await terminal.type(*asked)).json[0]["run_id"] for _ in range(2)]
    held = await terminal.type("runs", "pause", runs[0], "--reason", "look at it")
    assert (held.code, "paused: look at it" in held.out) == (0, True), held.err
    shown = await terminal.type("runs", "pause", "--label", "lot=7")
    assert (shown.code, shown.out.split("\n")[-2]) == (0, "2 runs match; --yes does it: pause")
    assert set(shown.out.split()[:2]) == set(runs)

    async def state(run_id: str) -> tuple[str, bool]:
        (run,) = (await terminal.type("runs", "get", run_id, "-o", "json")).json
        return run["status"], run["paused"]

    async with asyncio.timeout(DEADLINE_S):
        while (await state(runs[0]), await state(runs[1])) != (("QUEUED", True), ("PARKED", False)):
            pass  # it has come to the end of its step, and the other to its gate
    steps = (await terminal.type("runs", "checkpoints", runs[0], "-o", "json")).json
    assert [step["key"] for step in steps] == ["look_up", "think"]
    told = await terminal.type("runs", "resume", "--label", "lot=7", "--yes")
    assert (told.code, told.out) == (0, "resume: 1 done, 0 passed over\n"), told.err
    async with asyncio.timeout(DEADLINE_S):
        while await state(runs[0]) != ("PARKED", False):
            pass
    ended = await terminal.type("runs", "cancel", "--label", "lot=7", "--yes", "-o", "json")
    assert (ended.code, ended.json[-1]["done"]) == (0, 2), ended.err
    assert [await state(run_id) for run_id in runs] == [("CANCELLED", False)] * 2
    for wrong in (["cancel"], ["cancel", runs[0], "--intent", "greet"], ["retry", "--yes"]):
        assert (await terminal.type("runs", *wrong)).code == 2


async def test_refused_events_are_listed_sent_again_and_given_up(terminal: Terminal, suite: Suite) -> None:
    connection = await asyncpg.connect(suite.database_url)
    stage = 'SELECT holdfast.enqueue_run($1, \'{"name": "Ada"}\', $2)'
    try:
        for key in ("first", "second"):
            await connection.execute(stage, "not.yet", key)
        async with asyncio.timeout(DEADLINE_S):
            while len(listed := (await terminal.type("events", "refused", "-o", "json")).json) < 2:
                pass
        assert [(one["idempotency_key"], one["intent"], one["source"]) for one in listed] == [
            ("first", "not.yet", ""),
            ("second", "not.yet", ""),
        ]
        assert "UNKNOWN_INTENT" in listed[0]["refusal"]
        shown = await terminal.type("events", "refused", "--limit", "1")
        assert "first" in shown.out
        assert "second" not in shown.out
        first, second = (str(one["event_id"]) for one in listed)
        # Its cause gone, it becomes a run; a later release would serve the intent.
        await connection.execute(
            "UPDATE holdfast.run_inbox_refused SET intent = 'greet' WHERE seq = $1", int(first)
        )
    finally:
        await connection.close()
    again = await terminal.type("events", "retry", first)
    assert again.code == 0, again.err
    assert again.json[0]["was"] == int(first)
    given_up = await terminal.type("events", "discard", second)
    assert (given_up.code, given_up.err) == (0, f"{second} is gone.\n")
    assert (await terminal.type("events", "refused")).out.strip() == "No refused events."
    gone = await terminal.type("events", "discard", second)
    assert gone.code != 0
    assert "EVENT_NOT_FOUND" in gone.err
    async with asyncio.timeout(DEADLINE_S):
        while not (runs := (await terminal.type("runs", "list", "-o", "json")).json):
            pass
    assert [run["intent"] for run in runs] == ["greet"]
