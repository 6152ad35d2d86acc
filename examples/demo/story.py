"""One run as a watcher has it: updates applied in order, shown as they come, asked afterwards."""

from collections import Counter
from collections.abc import AsyncIterator

from examples.demo.screen import Screen
from holdfast.client import Event, Rewound, Snapshot, Started, Update


class Story:
    """Always the true transcript: what died with a runner is dropped when the server says so."""

    def __init__(self, screen: Screen) -> None:
        self.events: list[Event] = []
        self.rewound = 0
        self._screen = screen

    async def follow(self, updates: AsyncIterator[Started | Update]) -> AsyncIterator[Event]:
        """Show and pass on each event until the run has ended."""
        async for update in updates:
            if isinstance(update, Event):
                self.events.append(update)
                self._show(update)
                yield update
            elif isinstance(update, Rewound):
                self.rewound += 1
                self.events = [event for event in self.events if event.sequence <= update.to_sequence]
                self._screen.event("rewound", f"events after {update.to_sequence} died with their runner")
            elif isinstance(update, Snapshot):
                raise TypeError("A run of a minute ago is retained whole: there is no need of a snapshot.")

    def count(self, kind: str) -> int:
        """Return how many events of a kind there are."""
        return sum(event.kind == kind for event in self.events)

    def tries(self) -> Counter[str]:
        """Return how often each step was begun, by its key."""
        return Counter(event.step for event in self.events if event.kind == "step_started")

    def said_in(self, step: str) -> str:
        """Return what was told in the last try of a step; pieces of earlier tries are void."""
        pieces: list[str] = []
        for event in self.events:
            if event.step == step and event.kind == "step_started":
                pieces.clear()
            elif event.step == step and event.kind == "token":
                pieces.append(event.text)
        return "".join(pieces)

    def _show(self, event: Event) -> None:
        told = _sentence(event)
        if event.kind == "token":
            self._screen.speak(event.text)
        elif told is not None:
            self._screen.event(event.kind, told)


def _sentence(event: Event) -> str | None:
    data = event.data
    if event.kind == "started":
        return f"attempt {event.attempt}, {data['replayed_steps']} recorded steps replayed"
    if event.kind == "step_started":
        return event.step if data["attempt"] == 1 else f"{event.step}, once more"
    if event.kind == "tool_called":
        return f"{data['tool']} {data['arguments']}"
    if event.kind == "effect_staged":
        return f"bound for {data['destination']}, committed with the run's end"
    if event.kind == "ended":
        outcome, usage = data["outcome"], data["usage"]
        return f"{outcome['status']} after {usage['steps']} steps and {usage['tokens']} tokens"
    return event.text if event.kind == "said" else None
