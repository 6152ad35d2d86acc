"""Standard output belongs to the readiness line: what agents print goes to standard error."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


@contextlib.contextmanager
def kept_for_us() -> Iterator[TextIO]:
    """Point standard output at standard error, for child processes too, and yield the real one."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    # Line by line, so that what an agent prints and what we log keep their order.
    real = os.fdopen(os.dup(saved), "w", buffering=1, encoding="utf-8")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield real
    finally:
        real.close()
        os.dup2(saved, 1)
        os.close(saved)
