"""hello.py: the first agent."""

from holdfast.agent import App, Run

app = App("hello")


async def look_up(name: str) -> dict[str, str]:
    """Read something slow: recorded once, never executed again."""
    return {"name": name, "language": "en"}


@app.agent("greet")
async def greet(run: Run, payload: dict[str, str]) -> str:
    """Greet somebody."""
    run.say(f"looking up {payload['name']}")
    person = await run.step(look_up, payload["name"])
    for word in ("hello", person["name"]):
        run.token(word + " ")
    return f"hello {person['name']}"
