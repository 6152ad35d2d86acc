"""Cron times hold against a slow reference that walks through every minute, over changes of the clock."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.ledger.cron import after_cron, check, zone_of

MINUTE = timedelta(minutes=1)
NAMES = {"sun": 0, "mon": 1, "fri": 5, "jan": 1, "feb": 2}
# A day before a change of the clock: forward, back, by half an hour, at midnight, a whole day.
CHANGES = [
    ("Europe/Berlin", datetime(2026, 3, 28, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 24, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 7, 12, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 10, 31, 12, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 3, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 2, 17, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 11, 3, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 29, tzinfo=UTC)),
    ("Africa/Casablanca", datetime(2026, 2, 14, tzinfo=UTC)),
    ("Asia/Kathmandu", datetime(2026, 2, 14, tzinfo=UTC)),
]


def numbers(part: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for term in part.split(","):
        span, _, step = term.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            bounds = low, high
        else:
            begin = NAMES.get(first.lower(), -1) if not first.isdigit() else int(first)
            end = begin if not last else NAMES.get(last.lower(), -1) if not last.isdigit() else int(last)
            bounds = begin, high if step and not last else end
        found |= set(range(bounds[0], bounds[1] + 1, int(step or 1)))
    return found


class Reference:
    """Asks of every minute whether it matches."""

    def __init__(self, expression: str, zone: str) -> None:
        minute, hour, day, month, weekday = expression.split()
        self.elapsed = hour.startswith("*")
        self.minutes, self.hours = numbers(minute, 0, 59), numbers(hour, 0, 23)
        self.days, self.months = numbers(day, 1, 31), numbers(month, 1, 12)
        self.weekdays = {n % 7 for n in numbers(weekday, 0, 7)}
        self.both = day.startswith("*") or weekday.startswith("*")
        self.zone = ZoneInfo(zone)

    def matches(self, wall: datetime) -> bool:
        on_day, on_weekday = wall.day in self.days, wall.isoweekday() % 7 in self.weekdays
        day = (on_day and on_weekday) if self.both else (on_day or on_weekday)
        return day and wall.month in self.months and wall.hour in self.hours and wall.minute in self.minutes

    def times(self, after: datetime, until: datetime) -> Iterator[datetime]:
        at = after.replace(second=0, microsecond=0) - MINUTE
        before = at.astimezone(self.zone).replace(tzinfo=None)
        while (at := at + MINUTE) <= until:
            local = at.astimezone(self.zone)
            wall = local.replace(tzinfo=None, fold=0)
            skipped = itertools.takewhile(lambda w, wall=wall: w < wall, _from(before + MINUTE))  # type: ignore[misc]
            fires = self.matches(wall) and (self.elapsed or not local.fold)
            if not self.elapsed:
                fires = fires or any(self.matches(one) for one in skipped)
            before = wall
            if fires and at > after:
                yield at


def _from(wall: datetime) -> Iterator[datetime]:
    while True:
        yield wall
        wall += MINUTE


def _field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.tuples(number, number).map(lambda p: f"{min(p)}-{max(p)}")
    return st.one_of(
        st.just("*"),
        number.map(str),
        span,
        st.integers(1, 7).map(lambda n: f"*/{n}"),
        st.tuples(span, st.integers(1, 5)).map(lambda p: f"{p[0]}/{p[1]}"),
        st.lists(number, min_size=2, max_size=3).map(lambda n: ",".join(map(str, n))),
    )


expressions = st.builds(
    lambda *parts: " ".join(parts),
    _field(0, 59),
    st.one_of(_field(0, 23), _field(0, 3)),
    st.one_of(st.just("*"), _field(1, 31)),
    st.just("*"),
    st.one_of(st.just("*"), _field(0, 7), st.just("sun"), st.just("mon-fri")),
)


@settings(max_examples=60, deadline=None)
@given(expressions, st.sampled_from(CHANGES), st.integers(0, 2880 * 60))
def test_times_over_a_change_of_the_clock_are_those_of_the_reference(
    expression: str, change: tuple[str, datetime], seconds: int
) -> None:
    zone, start = change
    after = start + timedelta(seconds=seconds)
    until = start + timedelta(days=3)
    expected = list(itertools.islice(Reference(expression, zone).times(after, until), 40))
    found: list[datetime] = []
    at = after_cron(expression, zone_of(zone), after)
    while len(found) < 40 and at is not None and at <= until:
        found.append(at)
        at = after_cron(expression, zone_of(zone), at)
    assert found == expected


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:30"]),
        ("*/20 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:00"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
        ("0 * * * *", "Europe/Berlin", "2026-10-25T00:00", ["2026-10-25T01:00", "2026-10-25T02:00"]),
        ("0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00", ["2018-11-04T03:00", "2018-11-05T02:00"]),
        ("0 */2 * * *", "Australia/Lord_Howe", "2026-04-04T14:50", ["2026-04-04T15:30", "2026-04-04T17:30"]),
        ("0 12 * * *", "Pacific/Apia", "2011-12-30T00:00", ["2011-12-30T10:00", "2011-12-30T22:00"]),
        ("0 0 29 feb *", "Europe/Berlin", "2096-03-01T00:00", ["2104-02-28T23:00"]),
        ("0 * 29 2 *", "Europe/Berlin", "2026-03-01T00:00", ["2028-02-28T23:00", "2028-02-29T00:00"]),
    ],
)
def test_times_that_are_known(expression: str, zone: str, after: str, expected: list[str]) -> None:
    at: datetime | None = datetime.fromisoformat(after).replace(tzinfo=UTC)
    for one in expected:
        assert at is not None
        at = after_cron(expression, zone_of(zone), at)
        assert at == datetime.fromisoformat(one).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "expression",
    ["", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "a b c d e", "0 0 30 2 *", "0 0 L * *",
     "0 0 * * 5L", "0 0 * * 1#2", "0 0 lw * *", "*/0 * * * *", "5-1 * * * *", "@daily", "0 0 * * *\0",
     "1,,2 * * * *", "-1 * * * *", "*-5 * * * *", "0 0 * * * " + " " * 300],
)  # fmt: skip
def test_what_is_no_expression_is_refused_in_one_sentence(expression: str) -> None:
    with pytest.raises(ValueError, match=r"must|malformed|matches"):
        check(expression)


def test_names_and_both_sundays_are_understood() -> None:
    for expression in ("0 0 * * sun", "0 0 * * 0", "0 0 * * 7", "0 0 * JAN-jul Sun"):
        check(expression)
    assert after_cron("0 0 * * 7", UTC, datetime(2026, 1, 1, tzinfo=UTC)) == datetime(2026, 1, 4, tzinfo=UTC)


@pytest.mark.parametrize("name", ["Mars/Olympus", "../etc/passwd", "/etc/passwd", "a\0b", "Europe"])
def test_a_zone_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="IANA"):
        zone_of(name)
