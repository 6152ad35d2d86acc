"""A service's settings are one frozen dataclass, read from the environment once and refused in one sentence.

    @dataclass(frozen=True)
    class InvokerSettings:
        address: str = setting("127.0.0.1:50051", help="where this service listens")
        database_url: str = setting(help="the ledger", secret=True)
        grace: float = setting(10.0, help="seconds to drain", minimum=0)

`HOLDFAST_DATABASE_URL` sets `database_url`. Variables that no field names belong to another service and are
left alone.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

_KEY: Final = "holdfast.setting"
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


ALLOW_INSECURE_BIND: Final = (
    "whether to listen, without identity, where others can reach it, who may then act for any tenant: only "
    "where something else, as network policies, lets in nobody but those who may"
)
"""What services say of the setting that stands in for identity."""


class SettingsError(Exception):
    """A variable is missing, malformed, or contradicts another; the text is one sentence for the operator."""


class MissingSettingError(SettingsError):
    """A variable without a default is not set; `shown` is the JSON of all variables, null for such ones."""

    def __init__(self, sentence: str, shown: str) -> None:
        super().__init__(sentence)
        self.shown = shown


@dataclass(frozen=True, slots=True)
class _About:
    help: str
    env: str | None
    secret: bool
    minimum: float | None
    maximum: float | None


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,  # noqa: A002 - the word a reader of settings looks for
    env: str | None = None,
    secret: bool = False,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """Declare a field: its purpose, its variable (by default prefix and name in capitals), its bounds."""
    about = _About(help, env, secret, minimum, maximum)
    return dataclasses.field(default=default, metadata={_KEY: about})


def load(cls: type[T], environ: Mapping[str, str], prefix: str = "HOLDFAST_") -> T:
    """Read the settings of `cls` out of `environ`; an empty variable counts as not set.

    Floats are seconds and may carry a unit (`250ms`, `10s`, `2m`). A refusal of `cls.__post_init__` (any
    `ValueError`) and every malformed value raise `SettingsError`.
    """
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    missing: list[str] = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = variable(field, prefix)
        raw = environ.get(name, "")
        if raw == "":
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                missing.append(f"{name} must be set: {_about(field).help or field.name}.")
            continue
        values[field.name] = _checked(name, _parsed(name, raw, hints[field.name], field), _about(field))
    if missing:
        raise MissingSettingError(missing[0], _shown(cls, values, prefix))
    try:
        return cls(**values)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def variable(field: "dataclasses.Field[Any]", prefix: str = "HOLDFAST_") -> str:
    """Return the name of the variable that sets a field."""
    return _about(field).env or prefix + field.name.upper()


def print_config(settings: object, prefix: str = "HOLDFAST_") -> str:
    """Return the settings as a JSON object by variable; secrets are masked, a URL only loses its password."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}  # type: ignore[arg-type]
    return _shown(type(settings), values, prefix)


def _shown(cls: type, values: Mapping[str, object], prefix: str) -> str:
    shown: dict[str, object] = {}
    for field in dataclasses.fields(cls):
        value = values.get(field.name, None if field.default is dataclasses.MISSING else field.default)
        shown[variable(field, prefix)] = _masked(value) if _about(field).secret else _plain(value)
    return json.dumps(shown, indent=2, ensure_ascii=False)


def _about(field: "dataclasses.Field[Any]") -> _About:
    about = field.metadata.get(_KEY)
    if isinstance(about, _About):
        return about
    given = field.metadata  # a plain dataclass field may carry the same words as a mapping
    return _About(given.get("help", ""), given.get("env"), bool(given.get("secret")), None, None)


def _parsed(name: str, raw: str, hint: Any, field: "dataclasses.Field[Any]") -> object:
    try:
        return _value(raw, hint)
    except ValueError as error:
        shown = "its value" if _about(field).secret else repr(raw)
        raise SettingsError(f"{name} is not usable: {shown} is not {error}.") from error


def _value(raw: str, hint: Any) -> object:
    """Parse one value; the `ValueError` says what was expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _value(raw, next(kind for kind in arguments if kind is not type(None)))
    if origin is tuple:
        return tuple(_value(part.strip(), arguments[0]) for part in raw.split(",") if part.strip())
    if origin is typing.Literal:
        if raw not in arguments:
            raise ValueError(f"one of {', '.join(map(str, arguments))}")
        return raw
    if hint not in _PARSERS:
        raise TypeError(f"settings cannot hold {hint!r}")
    return _PARSERS[hint](raw)


def _boolean(raw: str) -> bool:
    word = raw.strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("true or false")
    return word in _TRUE


def _integer(raw: str) -> int:
    try:
        return int(raw.replace("_", ""))
    except ValueError:
        raise ValueError("a whole number") from None


def _seconds(raw: str) -> float:
    text = raw.strip()
    unit = next((unit for unit in _UNITS if text.endswith(unit) and text[: -len(unit)][-1:].isdigit()), "")
    try:
        number = float(text.removesuffix(unit)) * _UNITS.get(unit, 1.0)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("a number, of seconds if it is a time")
    return number


_PARSERS: Final[Mapping[Any, Callable[[str], object]]] = {
    str: str,
    bool: _boolean,
    int: _integer,
    float: _seconds,
    timedelta: lambda raw: timedelta(seconds=_seconds(raw)),
    Path: lambda raw: Path(raw).expanduser(),
}


def _checked(name: str, value: object, about: _About) -> object:
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, int | float) and not isinstance(number, bool):
        if about.minimum is not None and number < about.minimum:
            raise SettingsError(f"{name} is {number:g}, and must be at least {about.minimum:g}.")
        if about.maximum is not None and number > about.maximum:
            raise SettingsError(f"{name} is {number:g}, and must be at most {about.maximum:g}.")
    return value


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value) if isinstance(value, Path) else value


def _masked(value: object) -> object:
    if value is None or value == "":
        return value
    if isinstance(value, str) and "://" in value:
        parts = urlsplit(value)
        if parts.password is None and "password" not in parts.query:
            return value
        if "password" not in parts.query:
            user_and_host = parts.netloc.replace(f":{parts.password}@", ":***@", 1)
            return parts._replace(netloc=user_and_host).geturl()
    return "***"
