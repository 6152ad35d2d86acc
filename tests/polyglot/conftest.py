"""One suite for the programs of this folder, and the programs, built when they are first asked for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.polyglot.languages import LANGUAGES
from tests.polyglot.toolchain import UnavailableError, build
from tests.support.live import live_suite

LEASE_TTL_S = 2.0
QUICK = {
    "HOLDFAST_LEASE_TTL": str(LEASE_TTL_S),
    "HOLDFAST_HEARTBEAT_INTERVAL": "0.5",
    "HOLDFAST_BROKEN_STREAM_GRACE": "0.3",
}


@pytest.fixture(scope="session")
def suite() -> Iterator[dict[str, str]]:
    """The addresses of running services that serve the agents of this folder and the README's first one."""
    with live_suite(("tests.polyglot.agents:app", "examples.hello:app"), QUICK) as addresses:
        yield addresses


def built(name: str) -> Path:
    """Return the folder in which a language is built; a test is skipped where it cannot be."""
    try:
        return build(LANGUAGES[name])
    except UnavailableError as reason:
        pytest.skip(str(reason))
