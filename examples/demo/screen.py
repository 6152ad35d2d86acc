"""Tells a person what happens: colours on a terminal, plain lines anywhere else."""

import re
import shutil
from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.text import Text

_MARGIN: Final = 4
_NARROWEST: Final = 40
_PARTS: Final = re.compile(r"\S+|\s+")


class Screen:
    """Where the demo talks; pieces of speech flow, everything else is a line of its own."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._width = max(_NARROWEST, min(110, shutil.get_terminal_size((100, 24)).columns - 2))
        self._column = 0  # of the speech that flows now; 0 if none does
        self._blank = False  # between what was said last and what comes
        self._scene = 0

    def scene(self, title: str) -> None:
        """Begin a part of the demo."""
        self._scene += 1
        self._line(Text(f"\n{self._scene}  {title}", style="bold"))

    def note(self, text: str) -> None:
        """Explain."""
        self._line(Text(f"   {text}", style="dim"))

    def event(self, name: str, text: str) -> None:
        """Tell something that happened, under its name."""
        self._line(Text.assemble((f"   {name:<14}", "cyan"), text))

    def proved(self, text: str) -> None:
        """Tell what was checked and is so."""
        self._line(Text.assemble(("   ✓ ", "bold green"), text))

    def failed(self, text: str) -> None:
        """Tell what should have been so and is not."""
        self._line(Text.assemble(("\n✗ ", "bold red"), (text, "red")))

    def lines(self, lines: Iterable[str]) -> None:
        """Show lines as they are, to be copied."""
        for line in lines:
            self._line(Text(line))

    def speak(self, text: str) -> None:
        """Show a piece of something being said, right after the piece before, wrapped at words."""
        for part in _PARTS.findall(text):
            if part.isspace():
                self._blank = self._column > _MARGIN
                continue
            if self._column + self._blank + len(part) > self._width:
                self._end_speech()
            gap = _MARGIN if self._column == 0 else int(self._blank)
            self._console.print(Text(" " * gap + part, style="green"), end="")
            self._column += gap + len(part)
            self._blank = False

    def _end_speech(self) -> None:
        if self._column:
            self._console.print()
            self._column = 0
            self._blank = False

    def _line(self, text: Text) -> None:
        self._end_speech()
        self._console.print(text)
