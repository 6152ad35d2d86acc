"""What an HTTP answer, or its absence, means for the effect and for the destination's breaker."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from holdfast.dispatcher.address import AddressRefusedError
from holdfast.dispatcher.connection import UnreachableError
from holdfast.dispatcher.exchange import BrokenError, UnsendableError
from holdfast.dispatcher.secret import SecretMissingError
from holdfast.ledger.domain.delivery import Answer, BreakerVote

# It says itself that it did not take the request, and may later.
_LATER: Final = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
    | {HTTPStatus.SERVICE_UNAVAILABLE}
)


@dataclass(frozen=True, slots=True)
class CallResult:
    """What came of one call; `reason` and `message` are empty if it was accepted.

    `cleared`: the destination said that it has the effect from no call made before this one.
    """

    answer: Answer
    vote: BreakerVote
    http_status: int = 0
    reason: str = ""
    message: str = ""
    retry_after_s: float | None = None
    cleared: bool = False


def of_status(status: int, retry_after: str | None = None) -> CallResult:
    """Read an HTTP status: 2xx accepts; 408, 425, 429 and 5xx may be tried again; all others are final."""
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return CallResult(Answer.ACCEPTED, BreakerVote.WORKS, status)
    reason, message = f"HTTP_{status}", f"The destination answered {status}."
    wait = seconds_of(retry_after)
    if status in _LATER:
        vote = BreakerVote.ABSTAINS if status == HTTPStatus.TOO_EARLY else BreakerVote.FAILS
        return CallResult(Answer.NOT_TAKEN, vote, status, reason, message, wait)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return CallResult(Answer.UNCERTAIN, BreakerVote.FAILS, status, reason, message, wait)
    if status < HTTPStatus.BAD_REQUEST:
        message = f"The destination answered {status}; redirects are not followed."
    return CallResult(Answer.REFUSED, BreakerVote.WORKS, status, reason, message)


def of_failure(error: Exception) -> CallResult | None:
    """Read why a call got no answer; None if the exception is none that a call can fail with."""
    match error:
        case AddressRefusedError() | SecretMissingError():
            # Nothing was sent and nothing will be until the operator acts: the breaker parks what waits.
            reason = "ADDRESS_REFUSED" if isinstance(error, AddressRefusedError) else "SECRET_MISSING"
            return CallResult(Answer.NOT_TAKEN, BreakerVote.FAILS, reason=reason, message=str(error))
        case UnreachableError():
            return CallResult(
                Answer.NOT_TAKEN, BreakerVote.FAILS, reason="UNREACHABLE", message="No connection was made."
            )
        case TimeoutError():
            return CallResult(
                Answer.UNCERTAIN, BreakerVote.FAILS, reason="TIMEOUT", message="No answer came in time."
            )
        case BrokenError():
            return CallResult(
                Answer.UNCERTAIN,
                BreakerVote.FAILS,
                reason="CONNECTION_LOST",
                message="The connection broke before an answer.",
            )
        case UnsendableError() | UnicodeError():
            return CallResult(
                Answer.REFUSED, BreakerVote.ABSTAINS, reason="UNSENDABLE", message="It is no valid request."
            )
        case _:
            return None


def of_inquiry(answered: CallResult) -> CallResult | None:
    """Read what came of asking whether the destination has an effect; None if it has not, so it may be sent.

    A 2xx says that it has, 404 and 410 that it has not. All else says nothing: it is asked again later.
    """
    if answered.answer is Answer.ACCEPTED:
        return answered
    if answered.http_status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return None
    told = answered.message or "Nothing was answered."
    return replace(
        answered,
        answer=Answer.UNCERTAIN,
        reason="UNCONFIRMED",
        message=f"Asked whether it has the effect, the destination did not say: {told}",
    )


def cut_off() -> CallResult:
    """Return what is known of a call that this process gave up: it had to end, or by a fault of its own."""
    return CallResult(
        Answer.UNCERTAIN,
        BreakerVote.ABSTAINS,
        reason="CUT_OFF",
        message="The dispatcher gave up the call before an answer came.",
    )


def seconds_of(retry_after: str | None) -> float | None:
    """Read a Retry-After header: seconds or a date (RFC 9110, section 10.2.3); None if it is neither."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:12]), 86_400))
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
