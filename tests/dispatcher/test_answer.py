"""Every HTTP answer, and every way to get none, means one thing."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from holdfast.dispatcher.answer import of_status, seconds_of
from holdfast.dispatcher.request import header_key
from holdfast.ledger.domain.delivery import Answer, BreakerVote


@pytest.mark.parametrize("status", range(200, 600))
def test_each_status_is_accepted_tried_again_or_final(status: int) -> None:
    result = of_status(status)
    expected = Answer.REFUSED
    if status < 300:
        expected = Answer.ACCEPTED
    elif status in (408, 425, 429, 503):
        expected = Answer.NOT_TAKEN
    elif status >= 500:
        expected = Answer.UNCERTAIN
    assert result.answer is expected
    assert bool(result.reason) is (status >= 300)
    assert (result.vote is BreakerVote.FAILS) is (status in (408, 429) or status >= 500)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("-7", None),
        ("7.5", None),
        ("soon", None),
        ("9" * 400, 86_400.0),
    ],
)
def test_retry_after_is_read_as_seconds(header: str | None, seconds: float | None) -> None:
    assert seconds_of(header) == seconds


def test_retry_after_is_read_as_a_date() -> None:
    later = datetime.now(UTC) + timedelta(seconds=100)
    assert 98 < (seconds_of(format_datetime(later, usegmt=True)) or 0) <= 100
    assert seconds_of("Sun, 06 Nov 1994 08:49:37 GMT") == 0


def test_two_keys_never_become_one_header() -> None:
    keys = ["a b", "a%20b", "a\tb", "ä", "a\r\nb", "a%", "a%25", "a", " a", "a "]
    headers = [header_key(key) for key in keys]
    assert len(set(headers)) == len(keys)
    assert all(header.isascii() and header.isprintable() and " " not in header for header in headers)
    assert header_key("ticket-7:run/3_x") == "ticket-7:run/3_x"
