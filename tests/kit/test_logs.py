"""One event is one JSON line."""

import contextvars
import logging
from typing import Any

import pytest

from holdfast.kit.telemetry import logs
from holdfast.kit.telemetry.about import about_run


def test_an_event_is_a_line_with_its_fields(lines: list[dict[str, Any]]) -> None:
    logs.logger("invoker").info("run admitted", run_id="r1", slots=3)
    [line] = lines
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "service": "test",
        "logger": "invoker",
        "event": "run admitted",
        "run_id": "r1",
        "slots": 3,
    }


def test_an_error_brings_its_stack(lines: list[dict[str, Any]]) -> None:
    try:
        int("odd")
    except ValueError as error:
        logs.logger("x").error("failed", error=error)
    assert "odd" in lines[0]["error_text"]
    assert "test_logs.py" in lines[0]["stack"]


def test_what_cannot_be_encoded_is_written_all_the_same(lines: list[dict[str, Any]]) -> None:
    logs.logger("x").info("odd", thing=object(), text="lone \ud800", line="a\nb")
    assert lines[0]["line"] == "a\nb"


def test_lines_of_libraries_take_the_same_form(lines: list[dict[str, Any]]) -> None:
    logging.getLogger("some.library").warning("it is %s", "late")
    assert (lines[0]["event"], lines[0]["logger"], lines[0]["level"]) == (
        "it is late",
        "some.library",
        "warning",
    )


def test_levels_below_the_configured_are_not_written() -> None:
    seen: list[str] = []
    logs.configure("test", level="warning", write=seen.append)
    logs.logger("x").info("no")
    logs.logger("x").debug("no")
    logs.logger("x").warning("yes")
    assert len(seen) == 1
    with pytest.raises(ValueError, match="none of"):
        logs.configure("test", level="loud")


def test_a_standard_error_that_is_gone_is_nobodys_problem() -> None:
    def gone(_: str) -> None:
        raise BrokenPipeError

    logs.configure("test", level="debug", write=gone)
    logs.logger("x").info("into the void")
    logs.configure("test", level="warning")


def test_what_a_task_says_of_itself_can_be_taken_back(lines: list[dict[str, Any]]) -> None:
    def talk() -> None:
        about_run("one", "order-7")
        logs.logger("test").info("first")
        about_run("two")
        logs.logger("test").info("second")

    contextvars.copy_context().run(talk)
    assert [(each["run_id"], each.get("correlation_id")) for each in lines] == [
        ("one", "order-7"),
        ("two", None),
    ]
