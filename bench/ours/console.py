"""How long the console's list of runs takes to come, with 100,000 of them in the ledger."""

import re
import time

import httpx

from bench.ours.resting import RESTING, filled
from bench.protocol import Question, answer

WARM_UP = 5
_OTHERS = {
    "waiting_ms": "/runs?status=waiting",
    "nothing_like_it_ms": "/runs?status=failed",
    "by_intent_ms": "/runs?intent=woken",
    "by_label_ms": "/runs?label=team%3Dnobody",
}


async def runs_page(question: Question) -> None:
    """Answer with the milliseconds from a browser's request to the whole page; medians of others beside."""
    async with filled(RESTING, runners=1, console=True) as (suite, _):
        url = f"http://{suite.addresses['console']}"
        async with httpx.AsyncClient(base_url=url, timeout=60, follow_redirects=True) as http:
            await _sign_in(http, url)
            first = await http.get("/runs")
            older = re.search(r'rel="next" href="([^"]+)"', first.text)
            if first.text.count("<tr>") < 50 or older is None:  # noqa: PLR2004 - a full page
                raise RuntimeError("the page does not show the runs")
            others = {**_OTHERS, "older_ms": older[1].replace("&amp;", "&")}
            beside = {name: _median(await _taken(http, path, 10)) for name, path in others.items()}
            answer(latencies_ms=await _taken(http, "/runs", question.runs), **beside)


async def _sign_in(http: httpx.AsyncClient, url: str) -> None:
    token = re.search(r'name="csrf" value="([^"]+)"', (await http.get("/sign-in")).text)
    if token is None:
        raise RuntimeError("the console shows no form to sign in")
    form = {"csrf": token[1], "tenant": "default", "user": "bench"}
    (await http.post("/sign-in", data=form, headers={"origin": url})).raise_for_status()


async def _taken(http: httpx.AsyncClient, path: str, times: int) -> list[float]:
    taken = []
    for number in range(times + WARM_UP):
        began = time.perf_counter()
        (await http.get(path)).raise_for_status()
        if number >= WARM_UP:
            taken.append(round(1000 * (time.perf_counter() - began), 3))
    return taken


def _median(taken: list[float]) -> float:
    return sorted(taken)[len(taken) // 2]
