"""Lines that are typed or piped in, and what Ctrl-C means: at a prompt to leave it, elsewhere to be heard."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

PROMPT = "> "


class Keyboard:
    """Reads lines; while a run speaks it turns each Ctrl-C into `pressed`.

    Reading a line stops the event loop: a stream that is open meanwhile has a slow reader.
    """

    def __init__(self, *, interactive: bool) -> None:
        self.pressed = asyncio.Event()
        self._interactive = interactive
        if interactive:
            with suppress(ImportError):  # a Python built without it: lines are typed all the same
                import readline  # noqa: F401 - gives `input` history and keys to edit with

    def line(self) -> str | None:
        """Return the next line without its end; None when there is no more, or Ctrl-C was pressed."""
        if not self._interactive:
            return self._piped()
        try:
            return input(PROMPT)
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return None

    def answer(self, question: str) -> str | None:
        """Ask something while a run speaks; None if Ctrl-C was pressed again, empty for Ctrl-D."""
        with self._quiet():
            try:
                return input(question)
            except EOFError:
                click.echo()
                return ""
            except KeyboardInterrupt:
                click.echo()
                return None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear Ctrl-C as `pressed`, within the block."""
        loop = asyncio.get_running_loop()
        self.pressed.clear()
        loop.add_signal_handler(signal.SIGINT, self.pressed.set)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        loop.remove_signal_handler(signal.SIGINT)  # Ctrl-C interrupts `input` again
        try:
            yield
        finally:
            self.pressed.clear()
            loop.add_signal_handler(signal.SIGINT, self.pressed.set)

    def _piped(self) -> str | None:
        line = sys.stdin.readline()
        return line.rstrip("\r\n") if line else None
