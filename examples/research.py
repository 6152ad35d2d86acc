"""A research assistant over a folder of documents: searches, reads, answers, remembers the conversation.

    export OPENAI_BASE_URL=… OPENAI_API_KEY=… OPENAI_MODEL=gpt-4o,gpt-4o-mini
    holdfast dev --agents examples.research:app
    holdfast chat research

It shows what an interactive agent needs: it speaks at once, calls tools in a loop, keeps a conversation in
its session, lets itself be interrupted, asks a cheaper model as its budget runs low, says what it has when
the budget ends, and moves to the background before work that would outlast the person who waits
(`{"thorough": true}`, where the caller allows it). The documents are this repository's own, or those of
RESEARCH_LIBRARY.
"""

import asyncio
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from holdfast.agent import (
    CHEAPEST,
    App,
    Dimension,
    Interrupted,
    Message,
    Permanent,
    Policy,
    Run,
    Rung,
    Talk,
    step,
)

LIBRARY: Final = Path(os.environ.get("RESEARCH_LIBRARY") or Path(__file__).resolve().parent.parent / "docs")
PART: Final = 4_000  # characters
FOUND: Final = 5
REMEMBERED: Final = 10  # turns
SECONDS_A_DOCUMENT: Final = 3.0

INSTRUCTIONS: Final = (
    "You answer questions from a library of documents. Search it, read what you need, and name the documents "
    "your answer rests on. Say so when the library does not have the answer."
)
BARGE_IN: Final = Policy(attempts=5, repeatable=True, interruptible=True)
FRUGAL: Final = [Rung(at=0.6, use=CHEAPEST), Rung(at=0.8, context=0.5), Rung(at=0.9, skip_optional=True)]

app = App("research")


@dataclass
class Question:
    """What a person asks; `thorough` has every document read."""

    message: str
    thorough: bool = False


@dataclass
class Turn:
    """A question of before, and its answer."""

    question: str
    answer: str


@dataclass
class Talks:
    """What the conversation has been about."""

    turns: list[Turn] = field(default_factory=list)


async def search(query: Annotated[str, Field(description="a few words to look for")]) -> list[dict[str, str]]:
    """Search the library; returns the documents that fit best, each with its best line."""
    return await asyncio.to_thread(_search, query)


async def read(
    document: Annotated[str, Field(description="a document's name, as search returns it")],
    part: Annotated[int, Field(description="long documents have several parts", ge=1)] = 1,
) -> str:
    """Read a part of a document."""
    return await asyncio.to_thread(_read, document, part)


@step(repeatable=True)
async def list_documents() -> list[str]:
    """Name every document of the library."""
    return await asyncio.to_thread(lambda: [_name(path) for path in _documents()])


@step(optional=True, repeatable=True)
async def suggest(query: str) -> list[str] | None:
    """Name further reading, if there is budget for that."""
    return [found["document"] for found in await search(query)]


def what_was_found(run: Run, dimension: Dimension) -> str:
    """Say what there is when the budget ends."""
    read_so_far = run.budget.spent.tools
    return (
        f"I ran out of {dimension.name.lower()} after {read_so_far} look-ups; ask again with a larger budget."
    )


@app.agent("research", session=Talks, trim="summarise", degrade=FRUGAL, on_exhausted=what_was_found)
async def research(run: Run, question: Question) -> str:
    """Answer a question from the documents."""
    run.say("Looking through the documents …")
    talks: Talks = run.session
    messages = [Message("system", INSTRUCTIONS)]
    for turn in talks.turns:
        messages += [Message("user", turn.question), Message("assistant", turn.answer)]
    if question.thorough:
        messages.append(Message("system", await notes_on_everything(run, question.message)))
    messages.append(Message("user", question.message))
    done = await talk(run, messages)
    further = await run.step(suggest, question.message)
    if further:
        run.say(f"Further reading: {', '.join(further[:3])}")
    talks.turns = [*talks.turns, Turn(question.message, done.content)][-REMEMBERED:]
    return done.content


async def talk(run: Run, messages: list[Message]) -> Talk:
    """Let the model look things up until it has its answer; whoever interrupts it changes its course."""
    while True:
        try:
            return await run.converse_with_tools(messages, [search, read], max_rounds=12, policy=BARGE_IN)
        except Interrupted as interruption:
            run.say("All right.")
            messages.append(Message("user", str(interruption.payload)))


async def notes_on_everything(run: Run, question: str) -> str:
    """Have a model read every document; that takes a while, and nobody need wait for it."""
    documents = await run.step(list_documents)
    if await run.expect(SECONDS_A_DOCUMENT * len(documents)):
        run.say("This takes longer: I go on in the background.")

    async def note(document: str) -> str:
        text = await run.tool(read, document=document)
        reply = await run.model(
            f"What does this say about the question {question!r}? One sentence.\n\n{text}",
            stream=False,
            max_tokens=200,
        )
        return f"{document}: {reply.content}"

    return "Notes on every document:\n" + "\n".join(await run.map(note, documents, at_once=4))


def _documents() -> list[Path]:
    return sorted(LIBRARY.rglob("*.md"))


def _name(path: Path) -> str:
    return path.relative_to(LIBRARY).as_posix()


def _search(query: str) -> list[dict[str, str]]:
    words = set(re.findall(r"\w+", query.lower()))
    scored = []
    for path in _documents():
        lines = path.read_text(encoding="utf-8").splitlines()
        counts = [(len(words.intersection(re.findall(r"\w+", line.lower()))), line) for line in lines]
        total = sum(count for count, _ in counts)
        if total:
            scored.append((total, _name(path), max(counts)[1].strip()))
    scored.sort(reverse=True)
    return [{"document": name, "line": line} for _, name, line in scored[:FOUND]]


def _read(document: str, part: int) -> str:
    path = (LIBRARY / document).resolve()
    if path not in {known.resolve() for known in _documents()}:
        raise Permanent(f"There is no document {document}; search names those there are.")
    text = path.read_text(encoding="utf-8")
    parts = max(1, -(-len(text) // PART))
    if part > parts:
        raise Permanent(f"{document} has {parts} parts.")
    return f"[part {part} of {parts}]\n{text[(part - 1) * PART : part * PART]}"
