"""What the demo says is checked: a wrong count ends it with one sentence."""

from typing import TypeVar

T = TypeVar("T")


class Disproved(Exception):  # noqa: N818 -- reads as what is the matter
    """Something is not as the demo says it is."""


def prove(what: str, found: T, expected: T) -> None:
    """Raise `Disproved` unless what was found is what was expected."""
    if found != expected:
        raise Disproved(f"{what}: expected {expected}, found {found}.")
