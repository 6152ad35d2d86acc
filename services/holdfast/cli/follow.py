"""A run on the terminal: what it says as it says it, what it does in the margin, its end at the end."""

from collections.abc import Mapping
from typing import Any

import click

from holdfast.cli import exit_code
from holdfast.cli.output import Form, json_line, plain
from holdfast.client import Event, Rewound, RunStatus, Snapshot, Started, Update


class Follower:
    """Shows one run's updates in order; `exit_code` says how it ended."""

    def __init__(self, form: Form) -> None:
        self.status = RunStatus.UNSPECIFIED
        self._form = form
        self._in_line = False

    @property
    def exit_code(self) -> int:
        """The code its end means; 0 while it has not ended."""
        return exit_code.of_status(self.status)

    def show(self, update: Started | Update) -> None:
        """Show one update."""
        if isinstance(update, Event):
            outcome = update.data.get("outcome") if update.kind == "ended" else None
            # A run that was retried goes on after its end.
            self.status = RunStatus[str((outcome or {}).get("status", "UNSPECIFIED"))]
        elif isinstance(update, Snapshot | Started) and update.run.is_ended:
            self.status = update.run.status
        if self._form == "json":
            json_line({"type": type(update).__name__.lower(), **plain(update)})
        elif isinstance(update, Event):
            self._event(update)
        elif isinstance(update, Rewound):
            self._margin(f"↶ rewound to {update.to_sequence}: the runner died, another one goes on")
        elif isinstance(update, Started):
            joined = "joined" if update.reattached else "started"
            self._margin(f"{joined} run {update.run.run_id} ({update.run.status.name})")
        else:
            self._margin(f"events up to {update.sequence} are no longer kept; {update.run.status.name}")

    def _event(self, event: Event) -> None:
        if event.kind == "token":
            click.echo(event.text, nl=False)
            self._in_line = not event.text.endswith("\n")
        elif event.kind == "said":
            self._end_line()
            click.echo(event.text)
        elif event.kind == "ended":
            self._ended(event.data)
        elif event.kind == "handed_off":
            self._handed_off(event)
        else:
            self._margin(f"{event.kind.replace('_', ' ')} {_about(event)}".rstrip())

    def _handed_off(self, event: Event) -> None:
        seconds = (event.data.get("budget") or {}).get("deadline_ms", 0) / 1000
        self._margin(f"handed off: it goes on in the background, for {seconds:g} s at most; to follow it:")
        self._margin(f"  holdfast runs watch {event.run_id} --after {event.sequence}")

    def _ended(self, data: Mapping[str, Any]) -> None:
        outcome = data.get("outcome") or {}
        usage = data.get("usage") or {}
        colour = "green" if self.status is RunStatus.SUCCEEDED else "red"
        self._end_line()
        spent = f"  {_spent(usage)}" if any(usage.values()) else ""  # the platform's own end tells none
        click.echo(click.style(self.status.name, fg=colour, bold=True) + click.style(spent, dim=True))
        show_end(outcome)

    def _margin(self, text: str) -> None:
        self._end_line()
        click.echo(click.style(f"· {text}", dim=True))

    def _end_line(self) -> None:
        if self._in_line:
            click.echo()
            self._in_line = False


def _spent(usage: Mapping[str, Any]) -> str:
    steps, tokens = usage.get("steps", 0), usage.get("tokens", 0)
    return f"{steps} step{'' if steps == 1 else 's'}, {tokens} tokens, {usage.get('elapsed_ms', 0)} ms"


def show_end(outcome: Mapping[str, Any]) -> None:
    """Write the result of an outcome, and why it is no other."""
    import json

    failure = outcome.get("failure")
    if outcome.get("exhausted") not in (None, "UNSPECIFIED"):
        click.echo(f"out of {outcome['exhausted']}")
    if failure:
        step = f" in step {failure['step']}" if failure.get("step") else ""
        click.echo(f"{failure['reason']}{step}: {failure['message']}")
    if outcome.get("result") is not None:
        click.echo(json.dumps(plain(outcome["result"]), indent=2, ensure_ascii=False))


def _about(event: Event) -> str:
    """Return the few words that tell one event of a kind from another."""
    data = event.data
    named = [
        data.get(name) for name in ("key", "tool", "destination", "rung", "approval_id", "run_id", "reason")
    ]
    words = [str(word) for word in named if word]
    if (tried := data.get("attempt") or data.get("attempts") or 0) > 1:
        words.append(f"(try {tried})")
    if data.get("replayed_steps"):
        words.append(f"({data['replayed_steps']} steps replayed)")
    if failure := data.get("failure"):
        words.append(f"{failure['reason']}: {failure['message']}")
    return " ".join(words)
