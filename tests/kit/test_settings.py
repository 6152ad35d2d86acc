"""Settings come from the environment, and what is wrong with them is one sentence."""

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from holdfast.kit.settings import MissingSettingError, SettingsError, load, print_config, setting

_SECOND = timedelta(seconds=1)
_FOLDER = Path("/srv")


@dataclass(frozen=True)
class Example:
    database_url: str = setting(help="the ledger", secret=True)
    listen: str = setting("127.0.0.1:7401", help="where to listen")
    slots: int = setting(8, help="how much at once", minimum=1, maximum=100)
    grace: float = setting(10.0, help="seconds to drain", minimum=0)
    pause: timedelta = setting(_SECOND, help="between rounds")
    reload: bool = setting(False, help="restart on change")
    folder: Path = setting(_FOLDER, help="where files go")
    intents: tuple[str, ...] = setting((), help="what is served")
    ports: tuple[int, ...] = setting((), help="numbers")
    limit: int | None = setting(None, help="none by default")
    mode: Literal["fast", "safe"] = setting("safe", help="how")
    model_url: str = setting("", help="the model", env="OPENAI_BASE_URL")
    plain: int = 3

    def __post_init__(self) -> None:
        if self.slots > 50 and self.mode == "safe":
            raise ValueError("HOLDFAST_SLOTS above 50 needs HOLDFAST_MODE=fast.")


URL = {"HOLDFAST_DATABASE_URL": "postgresql://u:hunter2@h/db"}


def test_every_type_is_read() -> None:
    settings = load(
        Example,
        URL
        | {
            "HOLDFAST_SLOTS": "4",
            "HOLDFAST_GRACE": "250ms",
            "HOLDFAST_PAUSE": "2m",
            "HOLDFAST_RELOAD": "Yes",
            "HOLDFAST_FOLDER": "/var",
            "HOLDFAST_INTENTS": "a, b,,c",
            "HOLDFAST_PORTS": "1,2",
            "HOLDFAST_LIMIT": "7",
            "HOLDFAST_MODE": "fast",
            "OPENAI_BASE_URL": "http://m",
            "HOLDFAST_PLAIN": "5",
        },
    )
    assert settings == Example(
        database_url=URL["HOLDFAST_DATABASE_URL"],
        slots=4,
        grace=0.25,
        pause=timedelta(minutes=2),
        reload=True,
        folder=Path("/var"),
        intents=("a", "b", "c"),
        ports=(1, 2),
        limit=7,
        mode="fast",
        model_url="http://m",
        plain=5,
    )


def test_what_is_not_set_or_empty_takes_its_default_and_strangers_are_left_alone() -> None:
    settings = load(Example, URL | {"HOLDFAST_SLOTS": "", "HOLDFAST_OTHER": "x", "PATH": "/bin"})
    assert settings == Example(database_url=URL["HOLDFAST_DATABASE_URL"])


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("HOLDFAST_SLOTS", "many", "a whole number"),
        ("HOLDFAST_SLOTS", "0", "at least 1"),
        ("HOLDFAST_SLOTS", "101", "at most 100"),
        ("HOLDFAST_GRACE", "soon", "a number"),
        ("HOLDFAST_GRACE", "nan", "a number"),
        ("HOLDFAST_GRACE", "-1s", "at least 0"),
        ("HOLDFAST_RELOAD", "maybe", "true or false"),
        ("HOLDFAST_PORTS", "1,x", "a whole number"),
        ("HOLDFAST_MODE", "reckless", "one of fast, safe"),
        ("HOLDFAST_SLOTS", "51", "needs HOLDFAST_MODE=fast"),
        ("HOLDFAST_DATABASE_URL", "", "must be set"),
    ],
)
def test_what_is_wrong_is_one_sentence_that_names_the_variable(name: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(Example, URL | {name: value})
    text = str(caught.value)
    assert name in text
    assert expected in text
    assert text.endswith(".")
    assert "\n" not in text


def test_a_malformed_secret_is_not_repeated() -> None:
    @dataclass(frozen=True)
    class Secretive:
        pin: int = setting(help="a number", secret=True)

    with pytest.raises(SettingsError) as caught:
        load(Secretive, {"HOLDFAST_PIN": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_printing_shows_everything_but_secrets() -> None:
    shown: dict[str, Any] = json.loads(print_config(load(Example, URL | {"HOLDFAST_INTENTS": "a,b"})))
    assert shown["HOLDFAST_DATABASE_URL"] == "postgresql://u:***@h/db"
    assert shown["HOLDFAST_INTENTS"] == ["a", "b"]
    assert shown["OPENAI_BASE_URL"] == ""
    assert shown["HOLDFAST_PAUSE"] == 1.0


def test_a_missing_variable_is_named_beside_those_there_are() -> None:
    with pytest.raises(MissingSettingError, match="HOLDFAST_DATABASE_URL must be set: the ledger") as caught:
        load(Example, {"HOLDFAST_SLOTS": "4"})
    shown: dict[str, Any] = json.loads(caught.value.shown)
    assert shown["HOLDFAST_DATABASE_URL"] is None
    assert (shown["HOLDFAST_SLOTS"], shown["HOLDFAST_PAUSE"], shown["HOLDFAST_PLAIN"]) == (4, 1.0, 3)


@pytest.mark.parametrize(
    "secret", ["hunter2", "postgresql:///db?host=/s&password=hunter2", "http://a:hunter2@b:x"]
)
def test_no_form_of_a_secret_is_printed(secret: str) -> None:
    assert "hunter2" not in print_config(Example(database_url=secret))
