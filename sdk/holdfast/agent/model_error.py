"""How a model call fails: later it may work (`ModelUnavailable`), or it never will (`ModelRefused`).

ModelError
├── ModelUnavailable   connection, silence, broken stream, 408, 409, 425, 429, 5xx: retryable
└── ModelRefused       any other answer that is not 200: permanent
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from holdfast.agent.model_value import Usage

TRANSIENT_STATUSES = frozenset({408, 409, 425, 429})
FIRST_SERVER_ERROR = 500
SHOWN_CHARACTERS = 500
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]+")


class ModelError(Exception):
    """A model call that gave no reply; its text never holds the key."""

    retryable: bool

    def __init__(self, message: str, *, status: int | None = None, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.usage = usage  # what the broken call has cost, estimated; None when nothing had been answered


class ModelUnavailable(ModelError):  # noqa: N818 -- reads as what is the matter
    """The endpoint could not answer now; the same call may work later, after `retry_after` seconds."""

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        usage: Usage | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status=status, usage=usage)
        self.retry_after = retry_after
        self.elsewhere = False
        """The next try asks another model: nothing is won by waiting."""


class ModelRefused(ModelError):  # noqa: N818 -- reads as what is the matter
    """The endpoint will never answer this call as it is; `code` and `parameter` as it named them."""

    retryable = False

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        usage: Usage | None = None,
        code: str | None = None,
        parameter: str | None = None,
    ) -> None:
        super().__init__(message, status=status, usage=usage)
        self.code = code
        self.parameter = parameter

    def names_unsupported(self, parameter: str) -> bool:
        """Tell whether the refusal is only about this parameter's being unknown to the model."""
        return self.code == "unsupported_parameter" and self.parameter == parameter


def error_from_answer(
    status: int, headers: Mapping[str, str], body: bytes, *, where: str, key: str
) -> ModelError:
    """Return the error an HTTP answer other than 200 stands for."""
    details = _details(body)
    said = printable(str(details.get("message") or body.decode("utf-8", "replace")), key)
    message = (
        f"The model at {where} answered {status}: {said}"
        if said
        else f"The model at {where} answered {status}."
    )
    if status in TRANSIENT_STATUSES or status >= FIRST_SERVER_ERROR:
        return ModelUnavailable(message, status=status, retry_after=retry_after_seconds(headers))
    code, parameter = details.get("code"), details.get("param")
    return ModelRefused(
        message,
        status=status,
        code=None if code is None else printable(str(code), key),
        parameter=None if parameter is None else printable(str(parameter), key),
    )


def error_from_event(details: Any, usage: Usage, *, where: str, key: str) -> ModelError:
    """Return the error that arrived as an event inside a stream that had begun with status 200."""
    fields: Mapping[str, Any] = details if isinstance(details, dict) else {"message": details}
    message = f"The model at {where} broke off its answer: {printable(str(fields.get('message')), key)}"
    code = fields.get("code")
    if fields.get("type") == "invalid_request_error" and code not in TRANSIENT_STATUSES:
        return ModelRefused(message, usage=usage, code=None if code is None else printable(str(code), key))
    return ModelUnavailable(message, usage=usage)


def printable(text: str, key: str) -> str:
    """Return foreign text fit to be shown and stored: short, on one line, without the key."""
    shown = text.replace(key, "***") if key else text
    return UNPRINTABLE.sub(" ", shown)[:SHOWN_CHARACTERS].strip()


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return how long the endpoint asks to be left alone, in seconds, None when it does not say.

    Source: RFC 9110 §10.2.3 (seconds or a date), and `retry-after-ms` as OpenAI and Azure send it.
    """
    milliseconds = _positive(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _positive(value)
    if seconds is not None or value is None:
        return seconds
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _positive(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _details(body: bytes) -> Mapping[str, Any]:
    """Find the error object in a body: `{"error": {…}}`, `{"error": "…"}`, or the body itself."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    error = document.get("error", document)
    return error if isinstance(error, dict) else {"message": error}
