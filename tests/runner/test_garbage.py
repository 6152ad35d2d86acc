"""A run that went well leaves nothing for the garbage collector, which would stop all others for it."""

import gc
from collections.abc import Iterator

import pytest

from holdfast.agent import App, Run
from holdfast.agent.execution import Execution
from holdfast.runner.held import Held
from tests.runner.conftest import Runner
from tests.runner.platform import Platform

LAST = 2
"""The commit sent last is remembered by who sent it, and what waited for it by the commit."""


def kept() -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, Execution | Held)]


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
async def test_a_run_that_has_ended_is_gone(platform: Platform, runner: Runner) -> None:
    app = App("desk")

    async def double(number: int) -> int:
        return number * 2

    @app.agent("doubles")
    async def doubles(run: Run, numbers: dict[str, int]) -> int:
        return await run.step(double, numbers["number"])

    before = {id(each) for each in kept()}
    async with runner(app):
        platform.lease(*(platform.add("doubles", number=number) for number in range(8)))
        await platform.until(lambda: platform.credit == 8 and len(platform.ended) == 8)
        assert len([each for each in kept() if id(each) not in before]) <= LAST
