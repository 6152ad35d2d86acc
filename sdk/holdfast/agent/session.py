"""What the runs of a session hand on to each other: found at the start, saved with the end.

found ──▶ the agent changes it ──(SUCCEEDED | PARTIAL)──▶ saved with the run's last commit
                               └─(any other end, a crash)──▶ as it was found
"""

import dataclasses
from typing import Any

from google.protobuf.struct_pb2 import Value
from pydantic import BaseModel
from pydantic_core import from_json

from holdfast.agent.codec import Shape, canonical
from holdfast.agent.error import InvalidSession, NotRecordable
from holdfast.agent.wire import value as json_value
from holdfast.agent.wire.draft import SessionWrite
from holdfast.agent.wire.invocation import Remembered

NOTHING = Remembered(b"", 0)


class Kind:
    """What an agent keeps in a session: a type that can be made of nothing."""

    __slots__ = ("_make", "_shape")

    def __init__(self, annotation: Any = dict) -> None:
        """Raise TypeError for a type that is no dataclass, pydantic model or dict, or has no defaults."""
        made_of_nothing = isinstance(annotation, type) and (
            annotation is dict or dataclasses.is_dataclass(annotation) or issubclass(annotation, BaseModel)
        )
        if not made_of_nothing:
            raise TypeError("A session's type must be a dataclass, a pydantic model, or dict.")
        try:
            annotation()
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"A session begins with nothing: {annotation.__name__} needs a default for each field."
            ) from error
        self._make = annotation
        self._shape = Shape(annotation)

    def new(self) -> Any:
        """Return what a session begins with."""
        return self._make()

    def read(self, state: bytes) -> Any:
        """Return what was saved. Raises `InvalidSession` if it no longer fits the type."""
        try:
            value = self._shape.read(state)
        except NotRecordable as error:
            raise InvalidSession(str(error)) from error
        if self._make is dict and not isinstance(value, dict):
            raise InvalidSession("what is saved is not a dict")
        return value

    def write(self, value: Any) -> bytes:
        """Return a state as it is saved, canonical. Raises `NotRecordable`, also for one too deep to show."""
        if self._make is dict and not isinstance(value, dict):
            raise NotRecordable(f"a session of this agent is a dict, not {type(value).__name__}")
        encoded, _ = self._shape.record(value)
        state = canonical(from_json(encoded))
        try:
            json_value.write(Value(), from_json(state))
        except (OverflowError, TypeError, ValueError) as error:
            raise NotRecordable(f"it has a number that no double can hold: {error}") from error
        return state


class Session:
    """The state of one run's session, as the agent has it now."""

    __slots__ = ("_kept", "_kind", "_remembered", "_state", "_used")

    def __init__(self, kind: Kind, remembered: Remembered | None) -> None:
        """Take what the run has found; None for a run without a session, whose state nobody keeps."""
        self._kind = kind
        self._remembered = remembered or NOTHING
        self._kept = remembered is not None
        self._state: Any = None
        self._used = False

    def begin(self) -> None:
        """Make the state of what was found. Raises `InvalidSession` if it no longer fits its type."""
        found = self._remembered.state
        self._state = self._kind.read(found) if found else self._kind.new()

    @property
    def state(self) -> Any:
        """What the agent reads and changes."""
        self._used = True
        return self._state

    @state.setter
    def state(self, value: Any) -> None:
        self._used = True
        self._state = value

    def to_save(self) -> SessionWrite | None:
        """Return what the run leaves; None if nothing changed. Raises `NotRecordable`."""
        if not (self._kept and self._used):
            return None
        state = self._kind.write(self._state)
        if state == (self._remembered.state or self._kind.write(self._kind.new())):
            return None
        return SessionWrite(state=state, loaded_version=self._remembered.version)
