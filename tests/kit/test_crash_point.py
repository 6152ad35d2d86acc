"""A process told to die at a named point dies exactly there."""

import signal
import subprocess
import sys

import pytest

from holdfast.kit.crash_point import CrashPoint

PASSES = """
from holdfast.kit import crash_point
for n in range(1, 4):
    crash_point.reach("other.point")
    crash_point.reach("some.point")
    print(n, flush=True)
"""


@pytest.mark.parametrize(
    ("setting", "passed"), [("some.point", ""), ("some.point:3", "1 2"), ("", "1 2 3"), ("x", "1 2 3")]
)
def test_the_process_dies_at_the_nth_pass(setting: str, passed: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PASSES],
        env={"HOLDFAST_CRASH_AT": setting, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert " ".join(ended.stdout.split()) == passed
    assert ended.returncode == (0 if passed == "1 2 3" else -signal.SIGKILL)


@pytest.mark.parametrize("setting", ["p:0", "p:-1", "p:x", "p:1.5", "p:²"])
def test_a_malformed_count_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="HOLDFAST_CRASH_AT"):
        CrashPoint(setting)
