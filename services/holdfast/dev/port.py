"""Which port each service gets: the one that was asked for or none, a usual one if it is free, or any."""

import socket
from collections.abc import Iterable

from holdfast.dev.error import PortBusyError

HOST = "127.0.0.1"
USUAL = {
    "invoker": 7401,
    "checkpoint": 7402,
    "runner": 7403,
    "approval": 7404,
    "dispatcher": 7405,
    "console": 7480,
    "edge": 7490,
}


def choose_addresses(port: int, names: Iterable[str]) -> dict[str, str]:
    """Return where each named service is to listen; port 0 lets its process take any free one.

    `port` is the first Invoker's, and `PortBusyError` if it is taken. The others get their usual ports where
    those are free; with `port` 0 all take any.
    """
    if port and not is_free(port):
        raise PortBusyError(port)
    chosen: dict[str, str] = {}
    for name in names:
        wanted = port if name == "invoker" else USUAL.get(name, 0) if port else 0
        if name != "invoker" and wanted and (wanted == port or not is_free(wanted)):
            wanted = 0
        chosen[name] = f"{HOST}:{wanted}"
    return chosen


def is_free(port: int) -> bool:
    """Tell whether a server could listen on a loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free to a server
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
