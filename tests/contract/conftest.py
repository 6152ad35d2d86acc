"""One `holdfast dev` for the tests of this folder, as a newcomer starts it."""

from collections.abc import Iterator

import pytest

from tests.support.live import live_suite


@pytest.fixture(scope="session")
def suite() -> Iterator[dict[str, str]]:
    """The addresses of running services that serve the README's first agent."""
    with live_suite(["examples.hello:app"]) as addresses:
        yield addresses
