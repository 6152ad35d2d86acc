"""The images that the tests of this folder run."""

import pytest

from tests.engine import image
from tests.engine.engine import MISSING


@pytest.fixture(scope="session")
def base() -> str:
    """Make what stands for the BASE of the Dockerfile."""
    if MISSING:
        pytest.skip(MISSING)
    return image.base()


@pytest.fixture(scope="session")
def holdfast(base: str) -> str:
    """Build the image of all services."""
    return image.holdfast(base)
