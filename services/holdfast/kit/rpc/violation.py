"""Every field that is wrong is named, not only the first."""

import uuid
from typing import Final

from google.protobuf.duration_pb2 import Duration

from holdfast.kit.errors import InvalidField, Violation

LONGEST_NAME: Final = 255
_MOST_NANOS: Final = 999_999_999


class Violations:
    """Gathers what is wrong with a request; `check` refuses it if anything is."""

    def __init__(self) -> None:
        self._found: list[Violation] = []

    def add(self, field: str, problem: str) -> None:
        """Note one wrong field."""
        self._found.append(Violation(field, problem))

    def check(self) -> None:
        """Raise `InvalidField` naming all wrong fields, if there are any."""
        if self._found:
            fields = ", ".join(violation.field for violation in self._found)
            raise InvalidField(f"The request is malformed: {fields}.", violations=self._found)

    def text(self, field: str, value: str, *, longest: int = LONGEST_NAME, required: bool = True) -> str:
        """Check a text: its bytes, no NUL or other control character."""
        if required and not value:
            self.add(field, "must not be empty")
        elif len(value.encode()) > longest:
            self.add(field, f"must be at most {longest} bytes")
        elif value and not value.isprintable():
            self.add(field, "must be printable")
        return value

    def uuid(self, field: str, value: str) -> uuid.UUID:
        """Check a UUID in its usual form."""
        try:
            parsed = uuid.UUID(value)
        except ValueError:
            parsed = uuid.UUID(int=0)
        if str(parsed) != value.lower():
            self.add(field, "must be a UUID, as 8-4-4-4-12 hexadecimal digits")
        return parsed

    def number(self, field: str, value: int, *, default: int, most: int) -> int:
        """Check a count that is at least 1; 0 takes the default."""
        if not 0 <= value <= most:
            self.add(field, f"must be from 1 to {most}, or 0 for {default}")
        return value or default

    def seconds(
        self, field: str, value: Duration, *, given: bool, default: float, most: float, least: float = 0.001
    ) -> float:
        """Check a duration; one that was left out takes the default."""
        if not given:
            return default
        seconds = value.seconds + value.nanos / 1e9
        if not least <= seconds <= most or abs(value.nanos) > _MOST_NANOS:
            self.add(field, f"must be from {least:g} s to {most:g} s")
            return default
        return seconds
