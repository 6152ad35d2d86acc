"""A chat with a server that says what a test wants to see on the terminal."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from holdfast.kit import errors as faults
from holdfast.v1 import invoker_service_pb2 as pb
from holdfast.v1 import run_pb2, transcript_pb2
from tests.cli.typist import CONTROL_C, CONTROL_D, typist
from tests.client.contract_server import RUN_ID, ContractServer, ended, event, run


def said(sequence: int, text: str) -> pb.ConverseResponse:
    return pb.ConverseResponse(event=event(sequence, said=transcript_pb2.Said(text=text)))


def started() -> pb.ConverseResponse:
    return pb.ConverseResponse(started=pb.ConverseStarted(run=run()))


async def test_an_interrupt_that_is_refused_is_a_sentence_and_the_run_is_followed_on(
    server: ContractServer, tmp_path: Path
) -> None:
    refused = asyncio.Event()
    asked: list[Any] = []

    async def script(requests: Any, _: Any) -> AsyncIterator[Any]:
        asked.append(await anext(aiter(requests)))
        yield started()
        yield said(1, "thinking")
        await refused.wait()
        yield said(2, "done")
        yield pb.ConverseResponse(event=ended(3))

    def refuse(request: Any, _: Any) -> Any:
        asked.append(request)
        refused.set()
        raise faults.MailboxFull("Too much waits already.")

    server.invoker.script["Converse"] = script
    server.invoker.script["InterruptRun"] = refuse
    environment = {"HOLDFAST_ADDRESS": server.address}
    async with typist("chat", "greet", folder=tmp_path, environment=environment) as person:
        await person.sees("> ")
        person.type("hello")
        await person.sees("thinking")
        person.press(CONTROL_C)
        await person.sees("cancel the run) > ")
        person.type("hurry up")
        await person.sees("MAILBOX_FULL: Too much waits already")
        await person.sees("done")
        await person.sees("> ")
        person.press(CONTROL_D)
        assert await person.ended() == 0
    assert asked[0].start.invocation.payload["message"] == "hello"
    assert (asked[1].run_id, asked[1].payload.string_value) == (RUN_ID, "hurry up")


async def test_a_run_that_moves_to_the_background_leaves_the_chat_at_its_prompt(
    server: ContractServer, tmp_path: Path
) -> None:
    async def script(requests: Any, _: Any) -> AsyncIterator[Any]:
        await anext(aiter(requests))
        yield started()
        yield pb.ConverseResponse(
            event=event(
                1,
                degraded=transcript_pb2.Degraded(
                    dimension=run_pb2.BUDGET_DIMENSION_TOKENS, used=7, limit=10, rung="the small model"
                ),
            )
        )
        yield pb.ConverseResponse(
            event=event(
                2,
                budget_reported=transcript_pb2.BudgetReported(
                    usage=run_pb2.Usage(tokens=8), budget=run_pb2.Budget(max_tokens=10)
                ),
            )
        )
        yield pb.ConverseResponse(event=event(3, handed_off=transcript_pb2.HandedOff(run_id=RUN_ID)))
        await asyncio.Event().wait()

    server.invoker.script["Converse"] = script
    environment = {"HOLDFAST_ADDRESS": server.address}
    async with typist("chat", "greet", folder=tmp_path, environment=environment) as person:
        await person.sees("> ")
        person.type("hello")
        await person.sees("▾ the small model: 7 of 10 TOKENS are spent")
        await person.sees("▰▰▰▰▰▰▰▰▱▱ 80% of tokens")
        await person.sees(f"follow it with `holdfast runs watch {RUN_ID}`")
        await person.sees("> ")
        person.press(CONTROL_D)
        assert await person.ended() == 0


async def test_words_that_died_with_their_runner_are_told_anew(
    server: ContractServer, tmp_path: Path
) -> None:
    async def script(requests: Any, _: Any) -> AsyncIterator[Any]:
        await anext(aiter(requests))
        yield started()
        for sequence in (1, 2, 3):
            yield pb.ConverseResponse(event=event(sequence))
        yield pb.ConverseResponse(rewound=transcript_pb2.Rewound(run_id=RUN_ID, to_sequence=2))
        yield pb.ConverseResponse(event=event(3, token=transcript_pb2.Token(text="other")))
        yield pb.ConverseResponse(event=ended(4))

    server.invoker.script["Converse"] = script
    environment = {"HOLDFAST_ADDRESS": server.address}
    async with typist("chat", "greet", folder=tmp_path, environment=environment) as person:
        await person.sees("> ")
        person.type("hello")
        await person.sees("t1t2t3\n")
        await person.sees("were not kept")
        await person.sees("t1t2other\n")
        await person.sees("> ")
        person.press(CONTROL_D)
        assert await person.ended() == 0
