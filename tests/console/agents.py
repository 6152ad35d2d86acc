"""Agents that say, return and ask what would run as a script if a page did not escape it."""

from datetime import timedelta
from typing import Any

from holdfast.agent import App, Run

EVIL = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
app = App("evil", version="1")


async def look_up(name: str) -> dict[str, str]:
    return {"found": name + EVIL}


async def fail(name: str) -> str:
    raise ValueError(f"{name}: {EVIL}")


@app.agent("greet")
async def greet(run: Run, payload: dict[str, Any]) -> dict[str, Any]:
    run.say(f"looking up {payload.get('name')} {EVIL}")
    found = await run.step(look_up, str(payload.get("name", "")))
    run.token("hello ")
    run.token(EVIL)
    return {"hello": found, EVIL: EVIL}


@app.agent("fail")
async def failing(run: Run, payload: dict[str, Any]) -> None:
    await run.step(look_up, "before")
    await run.step(fail, str(payload.get("name", "")))


@app.agent("listen")
async def listen(run: Run, _payload: dict[str, Any]) -> list[Any]:
    heard = []
    while "bye" not in heard:
        heard.append(await run.receive("input"))
        run.say(f"heard {heard[-1]}")
    return heard


@app.agent("ask")
async def ask(run: Run, payload: dict[str, Any]) -> Any:
    decision = await run.approval(
        "review",
        payload={"evidence": EVIL * int(payload.get("times", 1)), "cents": 100},
        approvers=["group:reviewers"],
        title=f"Pay {payload.get('name', '')} {EVIL}",
        timeout=timedelta(hours=2),
        editable=True,
    )
    return decision.payload


@app.agent("report")
async def report(run: Run, _payload: dict[str, Any]) -> str:
    await run.step(look_up, "it")
    run.send("crm", {"text": EVIL})
    return "sent"
