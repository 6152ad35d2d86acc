"""Large groups are followed by a rest, a lone call by none."""

import asyncio

import pytest

from holdfast.kit.rest import EACH, LONGEST, Rest


class Clock:
    """The time of a loop, which passes when something sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(asyncio, "sleep", clock.sleep)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock.now)
    return clock


async def test_nobody_rests_before_the_first_group_or_after_a_lone_one(clock: Clock) -> None:
    rest = Rest()
    await rest.end()
    rest.begin(1)
    await rest.end()
    assert clock.slept == []


@pytest.mark.parametrize(("together", "seconds"), [(2, EACH), (10, 9 * EACH), (1000, LONGEST)])
async def test_the_rest_is_as_long_as_the_group_is_large_and_ends(
    clock: Clock, together: int, seconds: float
) -> None:
    rest = Rest()
    rest.begin(together)
    await rest.end()
    await rest.end()
    assert clock.slept == [pytest.approx(seconds)]


async def test_what_has_passed_since_the_group_counts(clock: Clock) -> None:
    rest = Rest()
    rest.begin(1000)
    clock.now += LONGEST / 3
    await rest.end()
    rest.begin(1000)
    clock.now += 2 * LONGEST
    await rest.end()
    assert clock.slept == [pytest.approx(LONGEST * 2 / 3)]
