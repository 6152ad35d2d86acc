"""Become a service such that it never outlives the process that started it.

Run as a script of its own: the parent has threads (gRPC's), so it must not run Python between fork and exec,
and a service that asks for its parent's death signal itself would miss a parent that died while Python was
starting. Arguments: the parent's pid, then the command. The signal holds across exec.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _launch(parent: int, command: list[str]) -> None:
    os.setsid()  # a Ctrl-C in the terminal is for the parent, who stops us in order
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - to become the command is the point


if __name__ == "__main__":
    _launch(int(sys.argv[1]), sys.argv[2:])
