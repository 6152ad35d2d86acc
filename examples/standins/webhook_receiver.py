"""A stand-in for an outside system: takes webhooks on any path, checks signatures, knows idempotency keys.

`GET /applied/KEY` says whether the delivery of an idempotency key had an effect: 200, or 404.
`GET /received` lists the deliveries, `GET /stats` counts them, `POST /admin/faults` (a `Fault` as JSON) and
`DELETE /admin/faults` script failures. Source of the signature: standardwebhooks.com.
"""

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from examples.standins.fault import Fault, FaultPlan
from examples.standins.serving import (
    Connections,
    LoopbackServer,
    client_left,
    json_object,
    refuse_busy_port,
    serve_until_signalled,
)

# "hang" and "reset" fail before the delivery has an effect; these two after it, so the sender cannot know.
RECEIVER_FAULTS = frozenset({"hang_after", "reset_after"})


@dataclass
class Delivery:
    """One request received. `status` None: no answer was given. `verified` None: no secret to verify with.

    `applied` is True for the delivery that had an effect: the first of its idempotency key that was taken.
    """

    path: str
    headers: dict[str, str]
    body: Any
    idempotency_key: str | None
    verified: bool | None
    received_at: str
    status: int | None = None
    applied: bool = False


class WebhookReceiver:
    """The stand-in on a loopback port, from `async with` to its end; any path under `url` takes a POST."""

    def __init__(self, *, port: int = 0, secret: str | None = None) -> None:
        self.deliveries: list[Delivery] = []
        self.inquiries: list[int] = []
        """What was answered to those who asked whether a delivery had an effect."""
        self.inquiry_faults: list[int] = []
        """Statuses that are answered to the next of them instead."""
        self.faults = FaultPlan(RECEIVER_FAULTS)
        self.connections = Connections()
        self._webhook = Webhook(secret) if secret else None
        self._applied: set[str] = set()
        self._server = LoopbackServer(self._app(), self.connections, port)
        self.url = self._server.origin

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop()

    def received(self) -> list[dict[str, Any]]:
        """Return the deliveries, oldest first, each with the `count` of those with its idempotency key."""
        counts = Counter(delivery.idempotency_key for delivery in self.deliveries)
        return [
            {**asdict(delivery), "count": counts[delivery.idempotency_key]} for delivery in self.deliveries
        ]

    def statistics(self) -> dict[str, int]:
        """Count what came (`deliveries`), what had an effect (`applied`), and distinct `idempotency_keys`."""
        return {
            "deliveries": len(self.deliveries),
            "applied": sum(delivery.applied for delivery in self.deliveries),
            "idempotency_keys": len({delivery.idempotency_key for delivery in self.deliveries} - {None}),
        }

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/received", self._show_received, methods=["GET"]),
                Route("/stats", self._show_stats, methods=["GET"]),
                Route("/applied/{key:path}", self._show_applied, methods=["GET"]),
                Route("/admin/faults", self._set_fault, methods=["POST", "DELETE"]),
                Route("/{path:path}", self._receive, methods=["POST"]),
            ]
        )

    async def _receive(self, request: Request) -> Response:
        body = await request.body()
        delivery = Delivery(
            path=request.url.path,
            headers=dict(request.headers),
            body=_readable(body),
            idempotency_key=request.headers.get("idempotency-key"),
            verified=self._verify(body, request.headers),
            received_at=datetime.now(UTC).isoformat(),
        )
        self.deliveries.append(delivery)
        fault = self.faults.take()
        if fault is not None and fault.kind in ("hang", "reset"):
            return NoAnswer(self.connections, fault)
        if fault is not None and fault.status is not None:
            delivery.status = fault.status
            return JSONResponse({"error": fault.message}, status_code=fault.status, headers=fault.headers())
        if delivery.verified is False:
            delivery.status = 401
            return JSONResponse({"error": "the signature does not match"}, status_code=401)
        self._apply(delivery)
        if fault is not None:
            return NoAnswer(self.connections, fault)
        delivery.status = 200
        return JSONResponse({"received": True, "duplicate": not delivery.applied})

    def _apply(self, delivery: Delivery) -> None:
        """Let the delivery take effect unless its key already has; one without a key always does."""
        key = delivery.idempotency_key
        delivery.applied = key is None or key not in self._applied
        if key is not None:
            self._applied.add(key)

    def _verify(self, body: bytes, headers: Mapping[str, str]) -> bool | None:
        if self._webhook is None:
            return None
        try:
            self._webhook.verify(body, dict(headers), json_parse=False)
        except (WebhookVerificationError, ValueError):  # ValueError: a signature that is no base64
            return False
        return True

    async def _show_received(self, _request: Request) -> Response:
        return JSONResponse(self.received())

    async def _show_stats(self, _request: Request) -> Response:
        return JSONResponse(self.statistics())

    async def _show_applied(self, request: Request) -> Response:
        status = 200 if request.path_params["key"] in self._applied else 404
        if self.inquiry_faults:
            status = self.inquiry_faults.pop(0)
        elif self._verify(b"", request.headers) is False:
            status = 401
        self.inquiries.append(status)
        return Response(status_code=status)

    async def _set_fault(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.faults.clear()
            return Response(status_code=204)
        try:
            self.faults.add_json(json_object(await request.json()))
        except ValueError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        return Response(status_code=204)


class NoAnswer(Response):
    """The end of a delivery whose sender hears nothing: reset, or left hanging until it gives up."""

    def __init__(self, connections: Connections, fault: Fault) -> None:
        super().__init__()
        self._connections, self._fault = connections, fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 -- sends nothing
        """Answer nothing."""
        if self._fault.kind.startswith("reset"):
            self._connections.cut(tuple(scope["client"]))
            return
        await client_left(receive)


def _readable(body: bytes) -> Any:
    text = body.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> None:
    """Serve until SIGINT or SIGTERM; the first line printed is `{"url": "http://127.0.0.1:PORT"}`."""
    parser = argparse.ArgumentParser(
        prog="webhook_receiver", description="A stand-in for an outside ticket system."
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--secret", default=None, help="verify Standard Webhooks signatures with it (whsec_…)"
    )
    options = parser.parse_args()
    asyncio.run(_serve(parser, options))


async def _serve(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    try:
        receiver = WebhookReceiver(port=options.port, secret=options.secret)
    except OSError as error:
        refuse_busy_port(parser, options.port, error)
        return
    await serve_until_signalled(receiver)


if __name__ == "__main__":
    main()
