"""Agents that do, under identity, all that a runner asks of others for them."""

from datetime import timedelta

from holdfast.agent import App, Run

app = App("guarded")


async def work(number: int) -> int:
    """Do something that is recorded."""
    return number + 1


@app.agent("add")
async def add(run: Run, payload: dict[str, int]) -> int:
    """Record a step."""
    run.say("adding")
    return await run.step(work, payload["number"])


@app.agent("family")
async def family(run: Run, payload: dict[str, int]) -> int:
    """Start a child and wait for it."""
    child = await run.spawn("add", {"number": payload["number"]})
    return int(await child) + 1


@app.agent("ask")
async def ask(run: Run, payload: dict[str, str]) -> str:
    """Have people decide."""
    verdict = await run.approval(
        "sign", payload=payload, approvers=["group:signers"], timeout=timedelta(minutes=5)
    )
    return "approved" if verdict.approved else "denied"


@app.agent("wait")
async def wait(run: Run, _payload: dict[str, str]) -> str:
    """Wait to be cancelled."""
    await run.sleep(timedelta(hours=1))
    return "late"


@app.agent("post")
async def post(run: Run, payload: dict[str, str]) -> str:
    """Send something away."""
    run.send("hooks", payload)
    return "sent"


@app.agent("echo")
async def echo(run: Run, payload: dict[str, str]) -> str:
    """Say a word, and then what is said to it."""
    run.token(payload["word"])
    heard = str(await run.receive())
    run.token(heard)
    return heard
