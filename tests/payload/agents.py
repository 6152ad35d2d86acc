"""An agent that says the secret word wherever it can."""

from datetime import timedelta
from typing import Any

from holdfast.agent import App, Run

app = App("discreet")


async def look(word: str) -> dict[str, str]:
    """Record the word."""
    return {"found": word}


async def ask(word: str) -> str:
    """Be a tool that knows the word."""
    return f"told {word}"


@app.agent("whisper", session=dict)
async def whisper(run: Run, payload: dict[str, Any]) -> dict[str, Any]:
    """Say it in steps, tools, texts, a child, a gate, a mailbox and the session."""
    word = payload["word"]
    found = await run.step(look, word)
    run.say(f"I say {word}")
    run.token(f"piece of {word}")
    tool = await run.tool(ask, word=word)
    child = await (await run.spawn("repeat", {"word": word}))
    heard = await run.receive("more", timeout=timedelta(minutes=2))
    verdict = await run.approval(
        "sign",
        payload={"word": word},
        approvers=["user:boss"],
        editable=True,
        timeout=timedelta(minutes=2),
    )
    before = dict(run.session)
    run.session["word"] = word
    return {
        "found": found,
        "tool": tool,
        "child": child,
        "heard": heard,
        "approved": verdict.payload,
        "before": before,
    }


@app.agent("repeat")
async def repeat(run: Run, payload: dict[str, str]) -> dict[str, str]:
    """Say it back."""
    return await run.step(look, payload["word"])


@app.agent("light", light=True)
async def light(run: Run, payload: dict[str, str]) -> dict[str, str]:
    """Say it back, many at a time."""
    return await run.step(look, payload["word"])
