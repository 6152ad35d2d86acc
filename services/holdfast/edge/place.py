"""A place in an event: `body.order.id`, `header.x-github-event`, `event.type`, `subject`, `key`, `partition`.

`body` is the event's data, a number in it the place in a list; `event` are the attributes of a CloudEvent,
`subject` is NATS's or Kafka's topic, `key` and `partition` are Kafka's.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from holdfast.edge.received import Received

_FORM: Final = re.compile(
    r"body(\.[^.\s]+)+|header\.[A-Za-z0-9!#$%&'*+^_`|~-]+|event\.[a-z0-9]+|subject|key|partition"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in an event something is."""

    text: str

    @classmethod
    def of(cls, text: str) -> "Place":
        """Read a place. Raises `ValueError` in one sentence."""
        if not _FORM.fullmatch(text):
            raise ValueError(
                "must be body.<field>…, header.<name>, event.<attribute>, subject, key or partition"
            )
        return cls(text)

    def find(self, event: Received) -> Any:
        """Return what is there; None if nothing is."""
        root, _, rest = self.text.partition(".")
        match root:
            case "subject" | "key" | "partition":
                return getattr(event, root) or None
            case "header":
                return event.headers.get(rest.lower())
            case "event":
                return event.attributes.get(rest)
        found: Any = event.data
        for step in rest.split("."):
            if isinstance(found, dict):
                found = found.get(step)
            elif isinstance(found, list) and step.isascii() and step.isdigit() and int(step) < len(found):
                found = found[int(step)]
            else:
                return None
        return found

    def text_of(self, event: Received) -> str | None:
        """Return what is there as text; None if nothing is, or what is no text, number or truth."""
        match self.find(event):
            case bool() as truth:
                return "true" if truth else "false"
            case str() | int() | float() as value:
                return str(value)
            case _:
                return None
