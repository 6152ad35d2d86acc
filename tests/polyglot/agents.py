"""What clients in other languages speak to: agents that greet, recite, drone on, ask people, and double."""

import asyncio
from typing import Any

from holdfast.agent import App, Run

app = App("polyglot")


@app.agent("polyglot.greet")
async def greet(_run: Run, payload: dict[str, Any]) -> str:
    """Greet somebody."""
    return f"hello {payload['name']}"


@app.agent("polyglot.recite")
async def recite(run: Run, payload: dict[str, Any]) -> str:
    """Say some words, wait for more, and say those too."""
    for word in payload["words"]:
        run.token(f"{word} ")
    more = str(await run.receive("input"))
    run.token(f"{more} ")
    return " ".join([*payload["words"], more])


@app.agent("polyglot.drone")
async def drone(run: Run, _payload: dict[str, Any]) -> None:
    """Speak until somebody says stop."""
    while True:
        run.token("hum ")
        await asyncio.sleep(0.05)


@app.agent("polyglot.order")
async def order(run: Run, payload: dict[str, Any]) -> str:
    """Order something if Ada agrees."""
    decision = await run.approval("review", payload=payload, approvers=["user:ada"], timeout=60)
    return f"{decision.status.lower()} by {', '.join(decision.by)}"


@app.agent("polyglot.double")
async def double(_run: Run, payload: dict[str, Any]) -> dict[str, Any]:
    """Double a number."""
    return {"double": int(payload["number"]) * 2}
