"""What runs while pods are replaced: work with an effect, a conversation, and a question to people."""

import asyncio
from dataclasses import dataclass

from holdfast.agent import App, Run

app = App("engine")


@dataclass
class Work:
    """How much there is to do, and the key of what the outside is told."""

    key: str
    steps: int = 3
    pause: float = 0.1


async def square(number: int, pause: float) -> int:
    await asyncio.sleep(pause)
    return number**2


@app.agent("work")
async def work(run: Run, todo: Work) -> int:
    """Do some steps and tell the outside, once."""
    total = sum([await run.step(square, number, todo.pause) for number in range(todo.steps)])
    run.send("sink", {"key": todo.key, "total": total}, key=todo.key)
    return total


@app.agent("talk")
async def talk(run: Run) -> int:
    """Hear numbers until somebody says goodbye, answer each with its square; say how many there were."""
    heard = 0
    while (said := await run.receive(timeout=120)) != "goodbye":
        for word in ("the", "square", "is"):
            run.token(f"{word} ")
        run.say(f"{said}: {await run.step(square, int(said), 0.3)}")
        heard += 1
    return heard


@app.agent("ask")
async def ask(run: Run) -> str:
    """Have somebody decide."""
    decision = await run.approval("go on?", approvers=["user:boss"], timeout=60)
    return "approved" if decision.approved else "denied"
