"""Whoever watches a run from outside is told what it does as it does it, and never of what is replayed."""

from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

from holdfast.agent.model_value import ModelReply


class ModelObserver(Protocol):
    """Watches one call of a model."""

    def answered(self, reply: ModelReply) -> None:
        """Take note of what came back."""


class Observer(Protocol):
    """Watches one run under one lease; it must not raise, and what it is told it must not change.

    What a block raises is how that ended: a `StepFailed`, an `Interrupted`, a `RunStopped`, a cancellation.
    """

    def step(self, key: str, name: str, kind: int) -> AbstractContextManager[object]:
        """Return what is around all tries of a step that is executed; `kind` is its `StepKind`."""

    def tried_again(self, kind: int) -> None:
        """Take note that a try of a step has failed and another follows."""

    def model(self, model: str, where: str) -> AbstractContextManager[ModelObserver]:
        """Return what is around one call of a model at an endpoint, whose URL `where` is."""


class _Nobody:
    """Watches nothing."""

    def answered(self, reply: ModelReply) -> None:
        """Take no note."""

    def step(self, _key: str, _name: str, _kind: int) -> AbstractContextManager[object]:
        """Return nothing."""
        return _NOTHING

    def tried_again(self, _kind: int) -> None:
        """Take no note."""

    def model(self, _model: str, _where: str) -> AbstractContextManager[ModelObserver]:
        """Return nothing."""
        return nullcontext(self)


_NOTHING: Final = nullcontext()
NOBODY: Final[Observer] = _Nobody()
