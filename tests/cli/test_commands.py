"""The command line: tables for people, JSON for programs, exit codes that mean something."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.dev.record import FOLDER, write_record
from holdfast.kit import errors as faults
from holdfast.v1 import invoker_service_pb2 as pb
from holdfast.v1 import run_pb2, transcript_pb2
from tests.cli.conftest import DEADLINE_S, Holdfast, finish, start
from tests.client.contract_server import RUN_ID, ContractServer, ended, event, invoked, run


def outcome(status: run_pb2.RunStatus.ValueType, **fields: Any) -> run_pb2.Outcome:
    return run_pb2.Outcome(status=status, **fields)


async def test_invoke_sends_the_envelope_that_was_typed(server: ContractServer, holdfast: Holdfast) -> None:
    server.invoker.script["Invoke"] = lambda *_: invoked()
    told = await holdfast(
        "invoke", "greet", "-d", '{"name": "Ada"}', "--key", "k", "--budget", "max_steps=3,deadline=2s",
        "--label", "team=a", "--tenant", "acme", "-o", "json",
    )  # fmt: skip
    assert told.code == 0, told.err
    assert told.json[0] | {"run_id": RUN_ID, "status": "QUEUED", "reattached": False} == told.json[0]
    request = server.invoker.asked[0]
    assert (request.idempotency_key, request.payload["name"]) == ("k", "Ada")
    assert (request.budget.max_steps, request.budget.deadline_ms) == (3, 2000)
    assert dict(request.labels) == {"team": "a"}
    assert server.invoker.tenants == ["acme"]


async def test_the_payload_comes_from_a_file_or_standard_input(
    server: ContractServer, holdfast: Holdfast, tmp_path: Path
) -> None:
    server.invoker.script["Invoke"] = lambda *_: invoked()
    (tmp_path / "payload.json").write_text('{"from": "file"}')
    await holdfast("invoke", "greet", "-d", "@payload.json")
    await holdfast("invoke", "greet", "-d", "-", given='{"from": "input"}')
    assert [one.payload["from"] for one in server.invoker.asked] == ["file", "input"]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (run_pb2.RUN_STATUS_SUCCEEDED, 0),
        (run_pb2.RUN_STATUS_RUNNING, 6),
        (run_pb2.RUN_STATUS_FAILED, 1),
        (run_pb2.RUN_STATUS_DEAD_LETTERED, 1),
        (run_pb2.RUN_STATUS_CANCELLED, 1),
        (run_pb2.RUN_STATUS_PARTIAL, 5),
    ],
)
async def test_the_exit_code_says_how_the_run_ended(
    server: ContractServer, holdfast: Holdfast, status: run_pb2.RunStatus.ValueType, code: int
) -> None:
    server.invoker.script["Invoke"] = lambda *_: invoked(status=status, outcome=outcome(status))
    assert (await holdfast("invoke", "greet", "--wait", "1s")).code == code
    assert server.invoker.asked[0].wait.seconds == 1


async def test_a_refusal_is_one_sentence_with_reason_and_field(
    server: ContractServer, holdfast: Holdfast
) -> None:
    def refuse(*_: Any) -> Any:
        raise faults.InvalidField("bad", violations=[faults.Violation("intent", "must not be empty")])

    server.invoker.script["Invoke"] = refuse
    told = await holdfast("invoke", "greet")
    assert told.code == 3
    assert told.out == ""
    assert told.err == "Error: INVALID_FIELD: bad; intent: must not be empty.\n"


async def test_an_absent_server_is_its_own_exit_code(tmp_path: Path) -> None:
    told = await finish(await start("runs", "get", RUN_ID, "--address", "127.0.0.1:9", folder=tmp_path))
    assert told.code == 4
    assert told.err.startswith("Error: UNAVAILABLE: no service answers")
    assert len(told.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["invoke", "greet", "-d", "not json"],
        ["invoke", "greet", "-d", "[1]"],
        ["invoke", "greet", "-d", "@missing"],
        ["invoke", "greet", "--budget", "max_stepz=1"],
        ["invoke", "greet", "--wait", "soon"],
        ["invoke", "greet", "--watch", "--wait", "1s"],
        ["events", "publish", "-d", ""],
        ["events", "publish", "-d", '{"intnet": "greet"}'],
        ["nonsense"],
        ["db", "status"],
    ],
)
async def test_wrong_usage_is_exit_code_2_and_sends_nothing(
    server: ContractServer, holdfast: Holdfast, arguments: list[str]
) -> None:
    told = await holdfast(*arguments)
    assert told.code == 2
    assert "Error" in told.err
    assert "Traceback" not in told.err
    assert server.invoker.asked == []


async def test_watching_streams_one_object_per_event(server: ContractServer, holdfast: Holdfast) -> None:
    async def script(*_: Any) -> AsyncIterator[Any]:
        yield pb.WatchRunResponse(event=event(1))
        yield pb.WatchRunResponse(rewound=transcript_pb2.Rewound(run_id=RUN_ID, to_sequence=0))
        yield pb.WatchRunResponse(event=event(1, epoch=2))
        yield pb.WatchRunResponse(event=ended(2, epoch=2))

    server.invoker.script["WatchRun"] = script
    told = await holdfast("runs", "watch", RUN_ID, "-o", "json")
    assert told.code == 0
    assert [(one["type"], one.get("kind")) for one in told.json] == [
        ("event", "token"),
        ("rewound", None),
        ("event", "token"),
        ("event", "ended"),
    ]


async def test_invoke_and_watch_shows_what_the_agent_says(server: ContractServer, holdfast: Holdfast) -> None:
    async def script(*_: Any) -> AsyncIterator[Any]:
        yield pb.WatchRunResponse(event=event(1, token=transcript_pb2.Token(text="Hel")))
        yield pb.WatchRunResponse(event=event(2, token=transcript_pb2.Token(text="lo")))
        yield pb.WatchRunResponse(event=event(3, step_started=transcript_pb2.StepStarted(key="plan")))
        yield pb.WatchRunResponse(event=event(4, said=transcript_pb2.Said(text="Done.")))
        failed = outcome(
            run_pb2.RUN_STATUS_PARTIAL,
            failure=run_pb2.Failure(reason="BUDGET", message="out of steps"),
            exhausted=run_pb2.BUDGET_DIMENSION_STEPS,
        )
        yield pb.WatchRunResponse(event=event(5, ended=transcript_pb2.RunEnded(outcome=failed)))

    server.invoker.script["Invoke"] = lambda *_: invoked()
    server.invoker.script["WatchRun"] = script
    told = await holdfast("invoke", "greet", "--watch")
    assert told.code == 5
    assert told.out.splitlines()[:3] == ["Hello", "· step started plan", "Done."]
    assert "out of STEPS" in told.out


async def test_lists_are_tables_or_lines_and_stop_at_their_limit(
    server: ContractServer, holdfast: Holdfast
) -> None:
    def page(*_: Any) -> Any:
        return pb.ListRunsResponse(runs=[run(intent=f"i{n}") for n in range(3)], next_page_token="more")

    server.invoker.script["ListRuns"] = page
    lines = (await holdfast("runs", "list", "--limit", "5", "--status", "queued", "-o", "json")).json
    assert [one["intent"] for one in lines] == ["i0", "i1", "i2", "i0", "i1"]
    assert list(server.invoker.asked[0].statuses) == [run_pb2.RUN_STATUS_QUEUED]
    table = (await holdfast("runs", "list", "--limit", "2")).out.splitlines()
    assert table[0].split() == ["RUN", "INTENT", "STATUS", "ACCEPTED", "TIME", "ATTEMPT", "STEPS"]
    assert table[1].split()[:3] == [RUN_ID, "i0", "QUEUED"]
    assert len(table) == 3
    assert (await holdfast("runs", "list", "--parent", RUN_ID, "--limit", "1")).code == 0
    assert server.invoker.asked[-1].parent_run_id == RUN_ID


async def test_a_run_shows_its_parent_and_what_it_has_lent(
    server: ContractServer, holdfast: Holdfast
) -> None:
    child = run(parent_run_id="above", lent=run_pb2.Usage(steps=7))
    server.invoker.script["GetRun"] = lambda *_: pb.GetRunResponse(run=child)
    shown = (await holdfast("runs", "get", RUN_ID)).out
    assert "above" in shown
    assert "7 lent to children" in shown
    (told,) = (await holdfast("runs", "get", RUN_ID, "-o", "json")).json
    assert (told["parent_run_id"], told["lent"]["steps"]) == ("above", 7)


async def test_events_are_lines_of_envelopes_and_one_refusal_is_exit_code_3(
    server: ContractServer, holdfast: Holdfast
) -> None:
    whole = '{"intent": "greet", "idempotency_key": "a", "payload": {}}'
    lines = whole + '\n\n{"intent": "greet", "idempotency_key": "b"}\n'
    told = await holdfast("events", "publish", "-o", "json", given=lines)
    assert told.code == 3
    assert [one["run_id"] for one in told.json] == [RUN_ID, ""]
    assert told.json[1]["refusal"]["fields"] == {"payload": "it must be given"}
    good = await holdfast("events", "publish", "-d", whole)
    assert good.code == 0
    assert server.events.groups == [2, 1]


async def test_the_outbox_s_destinations_are_put_and_effects_listed(holdfast: Holdfast) -> None:
    put = await holdfast(
        "outbox",
        "put-destination",
        "crm",
        "https://crm.example/in",
        "--timeout",
        "2s",
        "--header",
        "x=1",
        "-o",
        "json",
    )
    assert put.code == 0, put.err
    assert (put.json[0]["name"], put.json[0]["timeout"], put.json[0]["headers"]) == ("crm", 2.0, {"x": "1"})
    listed = await holdfast("outbox", "list")
    assert [line.split()[:3] for line in listed.out.splitlines()[1:]] == [
        ["e1", "crm", "DEAD_LETTERED"],
        ["e2", "crm", "DEAD_LETTERED"],
    ]


async def test_a_suite_running_in_this_folder_is_found_by_itself(
    server: ContractServer, tmp_path: Path
) -> None:
    server.invoker.script["GetRun"] = lambda *_: pb.GetRunResponse(run=run())
    write_record(tmp_path / FOLDER, {"grpc": server.address})
    told = await finish(await start("runs", "get", RUN_ID, folder=tmp_path))
    assert told.code == 0, told.err
    assert told.out.splitlines()[0].split() == ["run", RUN_ID]


async def test_ctrl_c_in_a_conversation_cancels_the_run_and_waits_for_its_end(
    server: ContractServer, tmp_path: Path
) -> None:
    async def script(requests: Any, _: Any) -> AsyncIterator[Any]:
        async for request in requests:
            if request.WhichOneof("message") == "start":
                yield pb.ConverseResponse(started=pb.ConverseStarted(run=run()))
                yield pb.ConverseResponse(event=event(1, token=transcript_pb2.Token(text="so far\n")))
            else:
                assert request.cancel.reason
                last = transcript_pb2.RunEnded(outcome=outcome(run_pb2.RUN_STATUS_CANCELLED))
                yield pb.ConverseResponse(event=event(2, ended=last))

    server.invoker.script["Converse"] = script
    process = await start("converse", "greet", "--address", server.address, folder=tmp_path)
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        while b"so far" not in await process.stdout.readline():
            pass
    process.send_signal(signal.SIGINT)
    told = await finish(process)
    assert told.code == 130
    assert "CANCELLED" in told.out


async def test_doctor_says_what_is_not_well(holdfast: Holdfast) -> None:
    told = await holdfast("doctor", "--checkpoint-address", "127.0.0.1:9", "-o", "json")
    assert told.code == 1
    found = {one["about"]: one["well"] for one in told.json}
    assert found == {
        "python": True,
        "grpcio": True,
        "ledger": None,
        "invoker": True,
        "dispatcher": True,
        "checkpoint": False,
    }


async def test_the_database_is_migrated_once_and_doctor_agrees(
    holdfast: Holdfast, empty_database_url: str
) -> None:
    before = await holdfast("db", "status", "--database-url", empty_database_url)
    assert before.code == 1
    applied = await holdfast("db", "migrate", "--database-url", empty_database_url, "-o", "json")
    assert applied.json[0]["applied"]
    again = await holdfast("db", "migrate", "--database-url", empty_database_url)
    assert again.out == "Nothing to apply.\n"
    assert (await holdfast("db", "status", "--database-url", empty_database_url)).code == 0
    told = await holdfast("doctor", "--database-url", empty_database_url, "-o", "json")
    assert {one["about"]: one["well"] for one in told.json if one["about"] in {"ledger", "clock"}} == {
        "ledger": True,
        "clock": True,
    }


async def test_a_database_that_does_not_answer_is_exit_code_4(holdfast: Holdfast) -> None:
    told = await holdfast("db", "migrate", "--database-url", "postgresql://nobody@127.0.0.1:9/none")
    assert told.code == 4
    assert told.err.startswith("Error: The database cannot be used")


async def test_serve_becomes_the_service(tmp_path: Path, database_url: str) -> None:
    ledger = {"HOLDFAST_DATABASE_URL": database_url}
    told = await finish(await start("serve", "approval", "--print-config", folder=tmp_path, **ledger))
    assert told.code == 0
    assert "HOLDFAST_LISTEN" in told.out
    refused = await finish(
        await start("serve", "approval", folder=tmp_path, HOLDFAST_LISTEN="192.0.2.1:7404", **ledger)
    )
    assert refused.code == 2
    assert "Will not listen" in refused.err


async def test_help_names_every_command_and_every_exit_code(holdfast: Holdfast) -> None:
    told = await holdfast("--help")
    for word in ("dev", "serve", "invoke", "converse", "runs", "events", "outbox", "db", "doctor", "130"):
        assert word in told.out


async def test_a_run_is_signalled_and_interrupted(server: ContractServer, holdfast: Holdfast) -> None:
    server.invoker.script["SignalRun"] = lambda asked, _: pb.SignalRunResponse(signal_id=asked.signal_id)
    server.invoker.script["InterruptRun"] = lambda asked, _: pb.InterruptRunResponse(
        signal_id=asked.signal_id
    )
    told = await holdfast(
        "runs", "signal", RUN_ID, "decision", "-d", '{"yes": true}', "--id", "s", "-o", "json"
    )
    assert told.json == [{"run_id": RUN_ID, "signal_id": "s"}]
    told = await holdfast("runs", "interrupt", RUN_ID, "-d", "-", given='"stop"')
    assert told.code == 0
    assert RUN_ID in told.out
    signal, interrupt = server.invoker.asked
    assert (signal.key, signal.payload.struct_value["yes"]) == ("decision", True)
    assert interrupt.payload.string_value == "stop"
    told = await holdfast("runs", "signal", RUN_ID, "input", "-d", "no json")
    assert told.code == 2
    assert "not JSON" in told.err


async def test_a_refused_signal_says_why(server: ContractServer, holdfast: Holdfast) -> None:
    def refuse(*_: Any) -> Any:
        raise faults.RunEnded("The run has ended: FAILED.", facts={"status": "FAILED"})

    server.invoker.script["SignalRun"] = refuse
    told = await holdfast("runs", "signal", RUN_ID, "input")
    assert told.code != 0
    assert "RUN_ENDED" in told.err
