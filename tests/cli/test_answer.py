"""What a chat shows of a run: its words, less what no longer holds, and how much of the budget is gone."""

from typing import Any

import pytest

from holdfast.cli.answer import Answer
from holdfast.cli.budget_bar import budget_bar
from holdfast.cli.chat_line import LONGEST, line_of
from holdfast.client import Event, Rewound, RunStatus


def token(sequence: int, text: str, step: str = "") -> Event:
    return Event("r", sequence, "token", {"text": text}, step=step)


def event(kind: str, sequence: int = 1, **data: Any) -> Event:
    return Event("r", sequence, kind, data)


def test_words_are_joined_and_whole_ones_stand_on_lines_of_their_own() -> None:
    answer = Answer()
    for update in (token(1, "one "), token(2, "two"), event("said", 3, text="three"), token(4, "four")):
        assert not answer.apply(update)
    assert answer.text == "one two\nthree\nfour"
    assert answer.unfinished == "four"


def test_what_was_rewound_is_no_longer_said() -> None:
    answer = Answer()
    for update in (token(1, "kept "), token(2, "lost "), token(3, "lost")):
        answer.apply(update)
    assert answer.apply(Rewound("r", 1))
    assert not answer.apply(Rewound("r", 1))
    answer.apply(token(2, "anew"))
    assert answer.text == "kept anew"


def test_words_of_a_failed_try_of_a_step_are_void() -> None:
    answer = Answer()
    for update in (token(1, "before "), token(2, "half a sen", "model"), token(3, "other ", "other")):
        answer.apply(update)
    assert answer.apply(event("step_started", 4, key="model", attempt=2))
    assert not answer.apply(event("step_started", 5, key="other", attempt=1))
    assert answer.text == "before other "


@pytest.mark.parametrize(
    ("words", "result", "shown"),
    [
        ("all said", "all said", None),
        ("", "hello", "hello"),
        ("other", "hello", "hello"),
        ("x", {"a": 1}, {"a": 1}),
        ("x", None, None),
    ],
)
def test_a_result_is_shown_unless_the_words_were_it(words: str, result: Any, shown: Any) -> None:
    answer = Answer()
    answer.apply(token(1, words))
    answer.apply(event("ended", 2, outcome={"status": "SUCCEEDED", "result": result}))
    assert answer.result == shown
    assert (answer.status, answer.exit_code) == (RunStatus.SUCCEEDED, 0)


def test_a_run_that_moved_to_the_background_is_told_apart() -> None:
    answer = Answer()
    handed_off = event("handed_off", run_id="r", budget={"max_steps": 9})
    answer.apply(handed_off)
    assert answer.exit_code == 6
    assert answer.budget == {"max_steps": 9}
    assert "holdfast runs watch r" in line_of(handed_off)


def test_the_bar_shows_the_limit_that_presses_most() -> None:
    budget = {"max_steps": 10, "max_tools": 5, "max_tokens": 12_000, "max_context": 0, "deadline_ms": 15_000}
    bar = budget_bar({"steps": 3, "tools": 1, "tokens": 8400, "elapsed_ms": 2100}, budget)
    assert bar == "▰▰▰▰▰▰▰▱▱▱ 70% of tokens  (steps 3/10, tools 1/5, tokens 8400/12k, time 2.1/15 s)"
    assert budget_bar({"steps": 30}, {"max_steps": 10}).startswith("▰▰▰▰▰▰▰▰▰▰ 300% of steps")
    assert budget_bar({"steps": 3}, {}) == ""


def test_long_arguments_are_cut_and_hidden_tools_not_mentioned() -> None:
    called = event("tool_called", tool="search", arguments={"text": "x" * 1000})
    line = line_of(called)
    assert line.startswith('→ search({"text": "xxx')
    assert len(line) < LONGEST + 20
    assert line_of(called, tools=False) == ""
    assert line_of(event("degraded", rung="the small model", used=7, limit=10, dimension="TOKENS")) == (
        "▾ the small model: 7 of 10 TOKENS are spent"
    )
    assert line_of(event("degraded", rung="model asks small")) == "▾ model asks small"
    trimmed = event(
        "degraded", rung="model leaves out 8 of 12 messages", used=9, limit=5, dimension="CONTEXT"
    )
    assert line_of(trimmed) == "▾ model leaves out 8 of 12 messages"
