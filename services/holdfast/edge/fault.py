"""Why an event is not taken: one class for each thing that the sender can do about it.

NotTaken
├── Malformed      it can never be taken as it is
├── TooLarge       nor this
├── NotGenuine     whoever sent it did not show the secret, or not in time
└── NotNow         the same event may be taken later
"""


class NotTaken(Exception):  # noqa: N818 - not an error of the program
    """An event is not taken; the text is one sentence for its sender, without secrets or payloads."""


class Malformed(NotTaken):
    """The event is not as its source declares; `field` is where, if that is known."""

    def __init__(self, sentence: str, field: str = "") -> None:
        super().__init__(sentence)
        self.field = field


class TooLarge(NotTaken):
    """The event is larger than its source lets it be."""


class NotGenuine(NotTaken):
    """The signature is missing, wrong, or too old."""


class NotNow(NotTaken):
    """It cannot be taken now: come again `after` seconds; `pressed` if a limit is reached."""

    def __init__(self, sentence: str, *, after: float, pressed: bool = False) -> None:
        super().__init__(sentence)
        self.after = after
        self.pressed = pressed
