"""What a chat shows: to a person as it happens, to a pipe the words alone, to a program every update."""

import json
import sys
from abc import ABC, abstractmethod

import click

from holdfast.cli.answer import Answer
from holdfast.cli.budget_bar import budget_bar
from holdfast.cli.chat_line import end_lines, line_of
from holdfast.cli.output import json_line, note, plain
from holdfast.client import Event, HoldfastError, RunStatus, Snapshot, Started, Update


class Screen(ABC):
    """Shows one run after the other; `answer` is the present one's."""

    def __init__(self, *, tools: bool) -> None:
        self.answer = Answer()
        self._tools = tools

    def begin(self) -> None:
        """Let the next run begin."""
        self.answer = Answer()

    @abstractmethod
    def show(self, update: Started | Update) -> None:
        """Apply an update and show what it says."""

    @abstractmethod
    def lost(self, error: HoldfastError) -> None:
        """Say that the connection is lost and made anew."""

    @abstractmethod
    def tell(self, sentence: str) -> None:
        """Say something of our own."""


class JsonLines(Screen):
    """One object a line, of every update."""

    def show(self, update: Started | Update) -> None:
        """Write the update."""
        self.answer.apply(update)
        json_line({"type": type(update).__name__.lower(), **plain(update)})

    def lost(self, error: HoldfastError) -> None:
        """Write why."""
        json_line({"type": "lost", **plain(error)})

    def tell(self, sentence: str) -> None:
        """Say it beside the output."""
        note(sentence)


class Plain(Screen):
    """The words, once the run has ended and none can be taken back; the rest beside the output."""

    def show(self, update: Started | Update) -> None:
        """Say in the margin what happens; write the words at the end."""
        self.answer.apply(update)
        if isinstance(update, Event) and (line := line_of(update, tools=self._tools)):
            note(line)
        if isinstance(update, Event | Snapshot) and self.answer.status.is_ended:
            self._ended()

    def lost(self, error: HoldfastError) -> None:
        """Say so in the margin."""
        del error
        note("connection lost, reconnecting…")

    def tell(self, sentence: str) -> None:
        """Say it in the margin."""
        note(sentence)

    def _ended(self) -> None:
        answer = self.answer
        text = answer.text
        if answer.result is not None:
            text += ("" if not text or text.endswith("\n") else "\n") + _shown(answer.result)
        if text:
            click.echo(text.removesuffix("\n"))
            sys.stdout.flush()
        if answer.status is not RunStatus.SUCCEEDED:
            note(answer.status.name)
        for line in end_lines(answer.outcome):
            note(line)


class Terminal(Screen):
    """Words as they come, the rest dim in the margin, the budget at the end."""

    def __init__(self, *, tools: bool) -> None:
        super().__init__(tools=tools)
        self._in_line = False
        self._is_lost = False
        self._bar = ""

    def show(self, update: Started | Update) -> None:
        """Show the update at once."""
        if self._is_lost:
            self._is_lost = False
            self.tell("connected again")
        if self.answer.apply(update):
            self._told_anew()
        if isinstance(update, Event):
            self._event(update)
        elif isinstance(update, Started):
            self.tell(f"{'joined' if update.reattached else 'started'} run {update.run.run_id}")
        elif isinstance(update, Snapshot):
            self.tell("what was said is no longer kept")
            if update.run.is_ended:
                self._ended()

    def lost(self, error: HoldfastError) -> None:
        """Say so, once for one loss."""
        del error
        if not self._is_lost:
            self._is_lost = True
            self.tell("connection lost, reconnecting…")

    def tell(self, sentence: str) -> None:
        """Say it in the margin."""
        self.end_line()
        click.echo(click.style(f"· {sentence}", dim=True))

    def end_line(self) -> None:
        """Begin a new line, unless one has begun."""
        if self._in_line:
            click.echo()
            self._in_line = False

    def _event(self, event: Event) -> None:
        if event.kind == "token":
            self._write(event.text)
        elif event.kind == "said":
            self.end_line()
            click.echo(event.text)
        elif event.kind == "budget_reported":
            self._show_bar()
        elif event.kind == "ended":
            self._ended()
        elif line := line_of(event, tools=self._tools):
            self.tell(line)

    def _write(self, text: str) -> None:
        if text:
            click.echo(text, nl=False)
            sys.stdout.flush()
            self._in_line = not text.endswith("\n")

    def _told_anew(self) -> None:
        self.tell("↶ the words above were not kept; from here they come anew")
        self._write(self.answer.unfinished)

    def _show_bar(self) -> None:
        bar = budget_bar(self.answer.usage, self.answer.budget)
        if bar and bar != self._bar:
            self.tell(bar)
        self._bar = bar

    def _ended(self) -> None:
        answer = self.answer
        self.end_line()
        if answer.result is not None:
            click.echo(_shown(answer.result))
        well = answer.status is RunStatus.SUCCEEDED
        if not well:
            colour = "yellow" if answer.status is RunStatus.PARTIAL else "red"
            click.echo(click.style(answer.status.name, fg=colour, bold=True))
        for line in end_lines(answer.outcome):
            click.echo(line)
        self._bar = ""
        self._show_bar()


def _shown(result: object) -> str:
    return (
        result
        if isinstance(result, str)
        else json.dumps(plain(result), indent=2, ensure_ascii=False, sort_keys=True)
    )
