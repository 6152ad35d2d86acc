"""Become PostgreSQL such that it never outlives the process that started it.

Run as a script of its own, not in a forked copy of the parent: a parent with threads (gRPC has some) must not
run Python between fork and exec. Arguments: the parent's pid, the signal for the parent's death, uid, gid,
then the command. The kernel sends that signal when the *thread* that started us ends, SIGKILL included.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _launch(parent: int, death_signal: int, uid: int, gid: int, command: list[str]) -> None:
    os.setsid()  # a Ctrl-C in the terminal is for the parent, who stops us in order
    os.umask(0o077)
    if os.geteuid() != uid:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After the change of user, which would clear it again.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 — to become the command is the point


if __name__ == "__main__":
    _parent, _signal, _uid, _gid = (int(argument) for argument in sys.argv[1:5])
    _launch(_parent, _signal, _uid, _gid, sys.argv[5:])
