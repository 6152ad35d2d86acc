"""Fixtures of the kit's tests."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast.kit.telemetry import logs


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """The log lines that the test makes, parsed, at every level."""
    seen: list[dict[str, Any]] = []
    logs.configure("test", level="debug", write=lambda line: seen.append(json.loads(line)))
    yield seen
    logs.configure("test", level="warning")
