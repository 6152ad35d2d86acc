"""One webhook: bounded in size and time, genuine before it is read, and answered 2xx only when it is durable.

413 too large · 408 too slow · 415 another type · 401 not genuine · 400 malformed
429 a limit is reached · 503 not now · 202 taken, whether as a run, as one already known, or aside
"""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from holdfast.edge import cloud_event
from holdfast.edge.cloud_event import is_json, media_type
from holdfast.edge.fault import Malformed, NotGenuine, NotNow, NotTaken, TooLarge
from holdfast.edge.intake import Fate, Intake, Letter, Taken
from holdfast.edge.mapping import invocation_of
from holdfast.edge.plain import parsed
from holdfast.edge.received import Received
from holdfast.edge.source import HttpSource
from holdfast.edge.verify import VERIFIERS
from holdfast.kit.secret import SecretMissingError, Secrets
from holdfast.kit.telemetry.logs import logger

_log: Final = logger("hook")

_STATUS: Final[Mapping[type[NotTaken], HTTPStatus]] = {
    Malformed: HTTPStatus.BAD_REQUEST,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    NotGenuine: HTTPStatus.UNAUTHORIZED,
}
_DISCARDED: Final = 4  # times the size allowed is read and thrown away, so that the sender hears why


class _OtherType(NotTaken):
    """The body is of a type that the source does not take."""


class _TooSlow(NotTaken):
    """The body did not come in time."""


class Hook:
    """Takes the webhooks of one source."""

    def __init__(self, source: HttpSource, intake: Intake, secrets: Secrets) -> None:
        self._source = source
        self._intake = intake
        self._secrets = secrets

    async def __call__(self, request: Request) -> Response:
        """Handle one request."""
        try:
            headers = _headers(request)
            _check_type(headers, self._source)
            body = await _whole(request, self._source)
            self._verify(headers, body)
            letters = [
                Letter(invocation_of(event, body, self._source.of))
                for event in _events(headers, body, self._source)
            ]
        except NotTaken as refusal:
            return self._refused(refusal)
        except ClientDisconnect:
            return Response(status_code=HTTPStatus.BAD_REQUEST)  # to nobody
        return self._answer(await self._intake.take(self._source.of, letters) if letters else [])

    def _verify(self, headers: Mapping[str, str], body: bytes) -> None:
        source = self._source
        try:
            secrets = self._secrets.lines(source.secret) if source.secret else []
            VERIFIERS[source.verify](headers, body, secrets, time.time(), source.tolerance)
        except SecretMissingError as error:
            _log.error("a source has no secret", source=source.of.name, error_text=str(error))
            raise NotNow("The source is not set up.", after=15.0) from error

    def _answer(self, fates: Sequence[Fate]) -> Response:
        later = [fate for fate in fates if isinstance(fate, NotNow)]
        if later:
            return self._refused(max(later, key=lambda fate: fate.after))
        taken = [fate for fate in fates if isinstance(fate, Taken)]
        told = {
            "accepted": sum(not (fate.duplicate or fate.aside) for fate in taken),
            "duplicates": sum(fate.duplicate for fate in taken),
            "set_aside": sum(fate.aside for fate in taken),
            "run_ids": [fate.run_id for fate in taken if fate.run_id],
        }
        return JSONResponse(told, HTTPStatus.ACCEPTED)

    def _refused(self, refusal: NotTaken) -> Response:
        told = {"error": str(refusal)}
        headers: dict[str, str] = {}
        match refusal:
            case NotNow():
                status = HTTPStatus.TOO_MANY_REQUESTS if refusal.pressed else HTTPStatus.SERVICE_UNAVAILABLE
                headers["retry-after"] = str(math.ceil(refusal.after))
            case _OtherType():
                status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
            case _TooSlow():
                status = HTTPStatus.REQUEST_TIMEOUT
            case _:
                status = _STATUS[type(refusal)]
        if isinstance(refusal, Malformed) and refusal.field:
            told["field"] = refusal.field
        if isinstance(refusal, TooLarge | _TooSlow | _OtherType):
            headers["connection"] = "close"  # there may be more of it to come
        _log.info("webhook refused", source=self._source.of.name, status=int(status), why=str(refusal))
        return JSONResponse(told, status, headers)


def _headers(request: Request) -> dict[str, str]:
    """Return the headers by names in small letters; of several with one name, all, as RFC 9110 joins them."""
    found: dict[str, str] = {}
    for name, value in request.headers.items():
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _check_type(headers: Mapping[str, str], source: HttpSource) -> None:
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise _OtherType("The body must not be compressed.")
    media = media_type(headers.get("content-type", ""))
    if source.of.format == "json" and not (is_json(media) and media not in _CLOUD_EVENTS):
        raise _OtherType("The body must be application/json.")
    if source.of.format == "cloudevents" and media not in _CLOUD_EVENTS and "ce-specversion" not in headers:
        raise _OtherType("The request must be a CloudEvent, or a batch of them.")


_CLOUD_EVENTS: Final = frozenset({cloud_event.STRUCTURED, cloud_event.BATCH})


async def _whole(request: Request, source: HttpSource) -> bytes:
    """Read the body. Raises `TooLarge` and `_TooSlow`, and ClientDisconnect."""
    body = bytearray()
    length = 0
    too_large = TooLarge(f"The body is larger than {source.max_bytes:,} bytes.")
    try:
        async with asyncio.timeout(source.timeout):
            async for chunk in request.stream():
                length += len(chunk)
                if length <= source.max_bytes:
                    body += chunk
                elif length > source.max_bytes * _DISCARDED:
                    raise too_large
    except TimeoutError:
        if length > source.max_bytes:
            raise too_large from None
        raise _TooSlow(f"The body did not come within {source.timeout:g} s.") from None
    if length > source.max_bytes:
        raise too_large
    return bytes(body)


def _events(headers: Mapping[str, str], body: bytes, source: HttpSource) -> list[Received]:
    if source.of.format == "cloudevents":
        return cloud_event.events_of(headers, body)
    data = parsed(body)
    return [Received(headers, data, own_key=_own_key(headers, data, source))]


def _own_key(headers: Mapping[str, str], data: object, source: HttpSource) -> str:
    """Return the sender's id of an event, which each delivery of it has."""
    match source.verify:
        case "standard-webhooks":
            return headers.get("webhook-id", "")
        case "github":
            return headers.get("x-github-delivery", "")
        case "stripe":
            own = data.get("id") if isinstance(data, dict) else None
            return own if isinstance(own, str) else ""
        case "none":
            return headers.get("webhook-id") or headers.get("idempotency-key", "")
