"""Large groups are followed by a rest, a lone call by none."""

import asyncio

import pytest

from holdfast.kit.rest import EACH, LONGEST, Rest


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note how long is slept, and do not sleep."""
    noted: list[float] = []

    async def sleep(seconds: float) -> None:
        noted.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return noted


async def test_nobody_rests_before_the_first_group_or_after_a_lone_one(slept: list[float]) -> None:
    rest = Rest()
    await rest.end()
    rest.begin(1)
    await rest.end()
    assert slept == []


@pytest.mark.parametrize("together", [2, 10, 1000])
async def test_the_rest_grows_with_the_group_and_ends(slept: list[float], together: int) -> None:
    rest = Rest()
    rest.begin(together)
    await rest.end()
    (seconds,) = slept
    whole = min(LONGEST, EACH * (together - 1))
    assert 0 < seconds <= whole + 1e-9


async def test_what_has_passed_since_counts() -> None:
    rest = Rest()
    rest.begin(1000)
    loop = asyncio.get_running_loop()
    await asyncio.sleep(2 * LONGEST)
    before = loop.time()
    await rest.end()
    assert loop.time() == pytest.approx(before, abs=LONGEST / 2)
