"""The world outside, as the runner in Go calls it over HTTP: it counts calls, and can make one wait."""

import asyncio
from types import TracebackType
from typing import Any, Self

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from examples.standins.serving import Connections, LoopbackServer
from tests.kit.until import until


class World:
    """Answers `POST /<step>` with what it was given, and which call of the step it is."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        """What was called, and under which idempotency key, in order."""
        self.bodies: list[Any] = []
        self._refused: set[str] = set()
        self._held: dict[tuple[str, int], asyncio.Event] = {}
        app = Starlette(routes=[Route("/{step}", self._called, methods=["POST"])])
        self._server = LoopbackServer(app, Connections(), 0)
        self.url = self._server.origin

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for held in self._held.values():
            held.set()
        await self._server.stop()

    def hold(self, step: str, number: int = 1) -> asyncio.Event:
        """Let the nth call of a step wait until the event is set."""
        return self._held.setdefault((step, number), asyncio.Event())

    def refuse(self, step: str) -> None:
        """Answer the next call of a step with an error."""
        self._refused.add(step)

    def count(self, step: str) -> int:
        """Return how often a step was called."""
        return sum(called == step for called, _ in self.calls)

    def keys(self, step: str) -> set[str]:
        """Return the idempotency keys that a step was called under."""
        return {key for called, key in self.calls if called == step}

    async def called(self, step: str, times: int = 1) -> None:
        """Wait until a step was called so often."""
        await until(lambda: self.count(step) >= times)

    async def _called(self, request: Request) -> JSONResponse:
        step = request.path_params["step"]
        self.calls.append((step, request.headers.get("idempotency-key", "")))
        number = self.count(step)
        given = await request.json()
        self.bodies.append(given)
        held = self._held.get((step, number))
        if held is not None:
            await held.wait()
        if step in self._refused:
            self._refused.remove(step)
            return JSONResponse({"step": step}, 503)
        return JSONResponse({"step": step, "call": number, "given": given})
