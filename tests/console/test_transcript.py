"""What a page holds of a run stays what the run holds, whatever is taken back."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from holdfast.client import Event, Rewound
from holdfast.console.transcript import Transcript

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def event(sequence: int, kind: str, **data: object) -> Event:
    return Event("r", sequence, kind, data, time=BEGIN + timedelta(seconds=sequence))


def test_sentences_stand_on_lines_of_their_own_beside_tokens() -> None:
    held = Transcript()
    for number, (kind, text) in enumerate([("said", "a"), ("token", "b"), ("token", "c"), ("said", "d")], 1):
        held.take(event(number, kind, text=text))
    assert held.words(0, 4) == "a\nbc\nd\n"
    held.take(Rewound("r", 2))
    assert (held.words(0, 4), held.last, held.rewound) == ("a\nb", 2, 1)


@given(st.lists(st.tuples(st.sampled_from(["said", "token"]), st.text(max_size=3)), max_size=12), st.data())
def test_words_sent_in_parts_are_the_words_sent_at_once(
    told: list[tuple[str, str]], data: st.DataObject
) -> None:
    held = Transcript()
    for number, (kind, text) in enumerate(told, 1):
        held.take(event(number, kind, text=text))
    cut = data.draw(st.integers(0, len(told)))
    assert held.words(0, cut) + held.words(cut, held.last) == held.words(0, held.last)


def test_a_step_that_a_runner_took_with_it_is_drawn_as_not_finished() -> None:
    held = Transcript()
    for number, (kind, key) in enumerate(
        [
            ("accepted", ""),
            ("step_started", "a"),
            ("step_finished", "a"),
            ("step_started", "b"),
            ("started", ""),
        ]
    ):
        held.take(event(number, kind, key=key) if key else event(number, kind))
    first, second = held.bars(BEGIN + timedelta(seconds=10))
    assert (first.key, first.seconds, first.note, first.x) == ("a", 1.0, "", 100)
    assert (second.key, second.note) == ("b", "not finished")
