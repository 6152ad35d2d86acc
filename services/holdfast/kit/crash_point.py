"""A process told to die at a named point dies exactly there: SIGKILL, so no clean-up can hide a lost promise.

`HOLDFAST_CRASH_AT=checkpoint.after_commit` kills at the first time the point is reached,
`HOLDFAST_CRASH_AT=checkpoint.after_commit:3` at the third. For crash tests only; without the variable a point
costs one comparison.
"""

import os
import signal
from collections.abc import Mapping


class CrashPoint:
    """Counts down to the death of the process at one named point; an empty name never comes."""

    def __init__(self, setting: str) -> None:
        self.name, _, times = setting.partition(":")
        if times and not (times.isascii() and times.isdigit() and int(times) > 0):
            raise ValueError(
                f"HOLDFAST_CRASH_AT is {setting!r}, and must be a point or point:N with N from 1."
            )
        self._left = int(times) if times else 1

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "CrashPoint":
        """Read the variable; a malformed one is a `ValueError` of one sentence."""
        return cls(environ.get("HOLDFAST_CRASH_AT", ""))

    def reach(self, name: str) -> None:
        """Pass the point `name`, or die there if this is the time that was asked for."""
        if name != self.name:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


_chosen = CrashPoint.of(os.environ)


def reach(name: str) -> None:
    """Pass the point `name` of this process, or die there if its environment says so."""
    _chosen.reach(name)
