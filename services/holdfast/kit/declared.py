"""What an operator declares in a file of TOML: tables, refused in one sentence that names the field."""

import re
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from holdfast.kit.secret import is_secret_name
from holdfast.kit.settings import SettingsError

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""The names of tables."""


def read_toml(file: Path, what: str) -> dict[str, Any]:
    """Read a file of declarations, of `what` they are. Raises `SettingsError`."""
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The {what} in {file} cannot be read.") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"The {what} in {file} are not TOML: {error}.") from error


class Fields:
    """The fields of one table, each taken once; what is left at the end is nobody's."""

    def __init__(self, table: str, name: str, fields: Mapping[str, Any]) -> None:
        self._table = table
        self.name = name
        self._left = dict(fields)

    def refuse(self, field: str, problem: str) -> SettingsError:
        """Return the refusal of a field."""
        return SettingsError(f"{self._table} {field} {problem}.")

    def text(self, field: str, form: "re.Pattern[str]", problem: str, default: str | None = None) -> str:
        """Take a text of a form; without a default it must be there."""
        value = self._left.pop(field, default)
        if value is None:
            raise self.refuse(field, "must be given")
        if value != default and not (isinstance(value, str) and form.fullmatch(value)):
            raise self.refuse(field, problem)
        return str(value)

    def secret(self, field: str) -> str:
        """Take the name of a secret."""
        value = self._left.pop(field, "")
        if value and not (isinstance(value, str) and is_secret_name(value)):
            raise self.refuse(field, "must be the name of a secret, never the secret itself")
        return str(value)

    def word(self, field: str, of: Any, default: str | None) -> Any:
        """Take one of some words."""
        words = typing.get_args(of)
        value = self._left.pop(field, default)
        if value not in words:
            raise self.refuse(field, f"must be one of {', '.join(filter(None, words))}")
        return value

    def words(self, field: str, of: Any) -> dict[str, Any]:
        """Take a table of some words by name."""
        value = self._left.pop(field, {})
        words = typing.get_args(of)
        if not isinstance(value, dict) or any(word not in words for word in value.values()):
            raise self.refuse(field, f"must be a table whose values are of {', '.join(words)}")
        return value

    def texts(
        self, field: str, form: "re.Pattern[str]", problem: str, default: tuple[str, ...] = ()
    ) -> tuple[str, ...]:
        """Take a list of texts of a form, at least one."""
        value = self._left.pop(field, list(default))
        if (
            not isinstance(value, list)
            or not value
            or not all(isinstance(one, str) and form.fullmatch(one) for one in value)
        ):
            raise self.refuse(field, problem)
        return tuple(value)

    def number(self, field: str, default: float, least: float, most: float) -> Any:
        """Take a number, whole if the default is."""
        value = self._left.pop(field, default)
        kinds = (int,) if isinstance(default, int) else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            raise self.refuse(field, f"must be a number from {least:g} to {most:g}")
        return type(default)(value)

    def end(self) -> None:
        """Refuse what nobody took."""
        if self._left:
            raise self.refuse(next(iter(self._left)), "is no field of such a source")
