"""What can keep a suite from standing, in sentences a person can act on."""


class SuiteError(Exception):
    """The suite cannot do what was asked; the message is for a person, and nothing is left running."""


class PortBusyError(SuiteError):
    """A port that was asked for belongs to another process."""

    def __init__(self, port: int) -> None:
        super().__init__(f"Port {port} of 127.0.0.1 is in use; name another one with --port, or 0 for any.")
        self.port = port
