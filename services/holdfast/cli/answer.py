"""What an agent has told in one run: in order, with what no longer holds taken back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.cli import exit_code
from holdfast.cli.output import plain
from holdfast.client import Event, Rewound, RunStatus, Snapshot, Started, Update


@dataclass(frozen=True, slots=True)
class _Told:
    sequence: int
    step: str
    text: str
    whole: bool


class Answer:
    """Applies a run's updates; afterwards it knows the words, the end and what was spent."""

    def __init__(self) -> None:
        self.run_id = ""
        self.status = RunStatus.UNSPECIFIED
        self.handed_off = False
        self.outcome: Mapping[str, Any] = {}
        self.usage: Mapping[str, Any] = {}
        self.budget: Mapping[str, Any] = {}
        self._told: list[_Told] = []

    @property
    def exit_code(self) -> int:
        """The code its end means; one that goes on in the background is told apart."""
        return exit_code.RUNNING if self.handed_off else exit_code.of_status(self.status)

    @property
    def text(self) -> str:
        """All words: pieces joined, whole things on lines of their own."""
        text = ""
        for told in self._told:
            if told.whole:
                text += ("\n" if text and not text.endswith("\n") else "") + told.text + "\n"
            else:
                text += told.text
        return text

    @property
    def unfinished(self) -> str:
        """The pieces since the last line was full."""
        return self.text.rpartition("\n")[2]

    @property
    def result(self) -> Any:
        """What the agent returned, where its words do not say so already."""
        result = self.outcome.get("result")
        return None if isinstance(result, str) and result.strip() in self.text else result

    def apply(self, update: Started | Update) -> bool:
        """Take an update in; True if words that were told do not hold any more."""
        if isinstance(update, Rewound):
            return self._take_back(lambda told: told.sequence > update.to_sequence)
        if isinstance(update, Event):
            return self._event(update)
        run = update.run
        self.run_id = run.run_id
        self.budget, self.usage = plain(run.budget), plain(run.usage)
        if isinstance(update, Snapshot) and run.is_ended:
            self.status = run.status
        if run.outcome is not None:
            self.outcome = plain(run.outcome)
        return False

    def _event(self, event: Event) -> bool:
        data = event.data
        if event.kind in {"said", "token"}:
            self._told.append(_Told(event.sequence, event.step, event.text, event.kind == "said"))
        elif event.kind == "step_started" and int(data.get("attempt") or 0) > 1:
            key = data.get("key")
            return self._take_back(lambda told: told.step == key and not told.whole)
        elif event.kind in {"accepted", "handed_off"}:
            self.budget = data.get("budget") or self.budget
            self.handed_off = event.kind == "handed_off"
        elif event.kind == "budget_reported":
            self.usage, self.budget = data.get("usage") or {}, data.get("budget") or self.budget
        elif event.kind == "ended":
            self.outcome = data.get("outcome") or {}
            self.status = RunStatus[str(self.outcome.get("status", "UNSPECIFIED"))]
            usage = data.get("usage") or {}
            self.usage = usage if any(usage.values()) else self.usage  # the platform's own end tells none
        return False

    def _take_back(self, void: Callable[[_Told], bool]) -> bool:
        kept = [told for told in self._told if not void(told)]
        lost = len(kept) < len(self._told)
        self._told = kept
        return lost
