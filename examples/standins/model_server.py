"""A stand-in model server: speaks the OpenAI chat-completions protocol on loopback, with invented answers.

Besides the protocol under `/v1` it serves `GET /stats`, `GET /requests`, `POST /admin/faults` (a `Fault` as
JSON, e.g. `{"kind": "429", "count": 2, "retry_after": 1}`), `DELETE /admin/faults`, and `POST /admin/answers`
(`{"content": "…", "tool_calls": [{"name": "…", "arguments": {…}}]}` answers the next request).
A request may bring its own fault in the header `X-Standin-Fault`.
"""

import argparse
import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.standins.chat_protocol import (
    Answer,
    ChatRequest,
    ChatRequestError,
    Completion,
    check_request,
    error_body,
)
from examples.standins.chat_stream import Line, ModelStats, TokenStream, Unanswered
from examples.standins.fault import FaultPlan
from examples.standins.serving import (
    Connections,
    LoopbackServer,
    json_object,
    refuse_busy_port,
    serve_until_signalled,
)
from examples.standins.triage_script import triage

MODELS = ("standin-large", "standin-small")
# "drop": the connection breaks after some tokens. "error_in_stream": an error arrives as an event instead.
# "garbage": an event that is no JSON. "no_usage": the usage is left out. "unstreamed": one JSON body though
# a stream was asked for. "slow_start": the stream is silent for `delay` before its first token.
MODEL_FAULTS = frozenset({"drop", "error_in_stream", "garbage", "no_usage", "slow_start", "unstreamed"})


class ModelServer:
    """The stand-in on a loopback port, from `async with` to its end; `url` is the base URL to give a client.

    `api_key` None accepts any key, but still wants one. `models` None answers under any model's name.
    `script` (the parameter `answer`) answers what `answers` has nothing for.
    `only_max_completion_tokens` refuses `max_tokens` as OpenAI's reasoning models do.
    `stops_when_client_leaves` False goes on burning tokens nobody reads, to show what a left stream costs.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        api_key: str | None = None,
        token_delay_ms: float = 0,
        models: tuple[str, ...] | None = None,
        answer: Callable[[ChatRequest], Answer] = triage,
        only_max_completion_tokens: bool = False,
        stops_when_client_leaves: bool = True,
    ) -> None:
        self.stats = ModelStats()
        self.faults = FaultPlan(MODEL_FAULTS)
        self.answers: deque[Answer] = deque()
        self.departures: asyncio.Queue[float] = asyncio.Queue()
        """When each client left before its answer was whole, in seconds of `time.monotonic`."""
        self.requests: deque[dict[str, Any]] = deque(maxlen=200)
        self._line = Line(
            self.stats, Connections(), token_delay_ms / 1000, stops_when_client_leaves, self.departures
        )
        self._api_key = api_key
        self._models = models
        self.script = answer
        self._only_max_completion_tokens = only_max_completion_tokens
        self._server = LoopbackServer(self._app(), self._line.connections, port)
        self.origin = self._server.origin
        self.url = f"{self.origin}/v1"

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop()

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._list_models),
                Route("/stats", self._show_stats),
                Route("/requests", self._show_requests),
                Route("/admin/faults", self._set_fault, methods=["POST", "DELETE"]),
                Route("/admin/answers", self._set_answer, methods=["POST"]),
            ]
        )

    async def _chat(self, request: Request) -> Response:
        self.stats.requests += 1
        try:
            response = self._refusal(request) or await self._completion(request)
        except ChatRequestError as bad:
            response = _refused(400, bad.message, "invalid_request_error", bad.param, bad.code)
        if response.status_code != HTTPStatus.OK:
            self.stats.failed += 1
        return response

    async def _completion(self, request: Request) -> Response:
        try:
            document = await request.json()
        except ValueError as error:
            raise ChatRequestError("We could not parse the JSON body of your request.") from error
        chat = check_request(document)
        self._remember(request, chat)
        if self._models is not None and chat.model not in self._models:
            message = f"The model `{chat.model}` does not exist or you do not have access to it."
            return _refused(404, message, "invalid_request_error", code="model_not_found")
        if self._only_max_completion_tokens and chat.body.get("max_tokens") is not None:
            message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            raise ChatRequestError(message, "max_tokens", "unsupported_parameter")
        try:
            fault = self.faults.take(request.headers.get("x-standin-fault"))
        except ValueError as error:
            raise ChatRequestError(str(error)) from error
        if fault is not None and fault.status is not None:
            kind = _error_type(fault.status)
            return _refused(fault.status, fault.message, kind, fault.param, fault.code, fault.headers())
        if fault is not None and fault.kind in ("hang", "reset"):
            return Unanswered(self._line, fault)
        completion = Completion(chat, self.answers.popleft() if self.answers else self.script(chat))
        if chat.streams and not (fault is not None and fault.kind == "unstreamed"):
            return TokenStream(self._line, chat, completion, fault)
        self.stats.tokens_sent += completion.usage()["completion_tokens"]
        return JSONResponse(completion.whole())

    def _refusal(self, request: Request) -> Response | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            return _refused(401, "You didn't provide an API key.", "invalid_request_error")
        if self._api_key is not None and key != self._api_key:
            # The whole key, as some servers do: clients must not pass this text on as it is.
            return _refused(
                401, f"Incorrect API key provided: {key}.", "invalid_request_error", code="invalid_api_key"
            )
        return None

    def _remember(self, request: Request, chat: ChatRequest) -> None:
        self.requests.append({"idempotency_key": request.headers.get("idempotency-key"), "body": chat.body})

    async def _list_models(self, request: Request) -> Response:
        refusal = self._refusal(request)
        models = [
            {"id": name, "object": "model", "created": 0, "owned_by": "standin"}
            for name in self._models or MODELS
        ]
        return refusal or JSONResponse({"object": "list", "data": models})

    async def _show_stats(self, _request: Request) -> Response:
        return JSONResponse(asdict(self.stats))

    async def _show_requests(self, _request: Request) -> Response:
        return JSONResponse(list(self.requests))

    async def _set_fault(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.faults.clear()
            return Response(status_code=204)
        try:
            self.faults.add_json(json_object(await request.json()))
        except ValueError as error:
            return _refused(400, str(error), "invalid_request_error")
        return Response(status_code=204)

    async def _set_answer(self, request: Request) -> Response:
        try:
            document = json_object(await request.json())
            calls = tuple(
                (str(call["name"]), json_object(call["arguments"])) for call in document.get("tool_calls", [])
            )
        except (ValueError, KeyError, TypeError) as error:
            return _refused(400, f"not an answer: {error}", "invalid_request_error")
        self.answers.append(Answer(str(document.get("content", "")), calls))
        return Response(status_code=204)


def _error_type(status: int) -> str:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "server_error"
    return "rate_limit_error" if status == HTTPStatus.TOO_MANY_REQUESTS else "invalid_request_error"


def _refused(  # noqa: PLR0917 -- the fields of OpenAI's error body in their order
    status: int,
    message: str,
    kind: str,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    return JSONResponse(error_body(message, kind, param, code), status_code=status, headers=headers)


def main() -> None:
    """Serve until SIGINT or SIGTERM; the first line printed is `{"url": "http://127.0.0.1:PORT/v1"}`."""
    parser = argparse.ArgumentParser(
        prog="model_server", description="A stand-in model server for demos and tests."
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--api-key", default=None, help="the only key accepted; default: any")
    parser.add_argument("--token-delay-ms", type=float, default=0, help="pause before each token")
    options = parser.parse_args()
    asyncio.run(_serve(parser, options))


async def _serve(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    try:
        server = ModelServer(
            port=options.port, api_key=options.api_key, token_delay_ms=options.token_delay_ms
        )
    except OSError as error:
        refuse_busy_port(parser, options.port, error)
        return
    await serve_until_signalled(server)


if __name__ == "__main__":
    main()
