"""What cannot be had here is skipped with its reason; what is wrong fails."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.polyglot import toolchain
from tests.polyglot.toolchain import Language, UnavailableError, away_line, build

PLAIN = Language("plain", ("bash",), lambda _folder: None, "echo built >> log", "", {})


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(toolchain, "CACHE", tmp_path)


def test_a_language_is_built_once_for_each_change_of_what_it_is_made_of() -> None:
    for language in (PLAIN, PLAIN, replace(PLAIN, shown="another page")):
        build(language)
    assert (PLAIN.folder / "log").read_text() == "built\n" * 2


def test_a_toolchain_that_is_not_here_is_named() -> None:
    with pytest.raises(UnavailableError, match="there is no nobody-has-this"):
        build(replace(PLAIN, tools=("nobody-has-this",)))


def test_a_registry_that_does_not_answer_is_told_in_the_tool_s_own_words() -> None:
    script = "echo getting; echo 'go: example.com: dial tcp: lookup failed'; echo more; exit 1"
    with pytest.raises(UnavailableError, match=r"^plain: go: example\.com: dial tcp: lookup failed$"):
        build(replace(PLAIN, script=script))


def test_a_program_that_does_not_compile_fails() -> None:
    with pytest.raises(AssertionError, match="undefined: x"):
        build(replace(PLAIN, script="echo 'main.go:1: undefined: x'; exit 1"))


@pytest.mark.parametrize(
    "printed",
    [
        "[ERROR] Could not resolve dependencies: Could not find artifact io.grpc:grpc-stub:jar:9.9.9",
        "go: example.com/stubs@v9.9.9: reading the mirror: 404 Not Found",
        "npm error code E404",
        "npm warn retry ECONNRESET\n" + "added a package\n" * 30 + "hello.ts(3,5): error TS2304",
    ],
)
def test_a_version_that_no_registry_has_is_our_mistake_and_skips_nothing(printed: str) -> None:
    assert not away_line(printed)


def test_the_line_that_says_what_is_away_is_the_reason() -> None:
    assert away_line("begin\nnpm error code ENOTFOUND\nend") == "npm error code ENOTFOUND"
