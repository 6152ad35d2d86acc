"""The parts of the model client that need no server: events, deltas, estimates, errors, recorded forms."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.agent.model import (
    Message,
    ModelReply,
    ToolCall,
    ToolSpec,
    Usage,
    estimate_text,
    estimate_tokens,
)
from holdfast.agent.model_error import retry_after_seconds
from holdfast.agent.model_stream import LARGEST_EVENT, BrokenStream, EventReader, ReplyBuilder

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def read(*pieces: bytes) -> list[bytes]:
    reader = EventReader()
    found = [data for piece in pieces for data in reader.feed(piece)]
    return [*found, *reader.end()]


def built(*deltas: dict[str, Any]) -> ModelReply:
    builder = ReplyBuilder("m", None)
    for delta in deltas:
        builder.add({"choices": [{"index": 0, "delta": delta}]})
    return builder.reply(0)


@given(st.lists(TEXTS, max_size=5), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.data())
def test_events_are_the_same_however_the_bytes_are_cut(
    texts: list[str], end: bytes, data: st.DataObject
) -> None:
    events = [json.dumps(text, ensure_ascii=False).encode() for text in texts]
    stream = b"".join(b": alive" + end + b"data: " + event + end + end for event in events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(*pieces) == events


def test_an_event_of_several_lines_and_one_without_its_empty_line_are_whole() -> None:
    assert read(b"data: a\ndata:b\n\nevent: x\ndata: c") == [b"a\nb", b"c"]


def test_an_event_without_end_is_refused_before_it_fills_the_memory() -> None:
    reader = EventReader()
    pieces = [b"x" * 1_000_000] * (LARGEST_EVENT // 1_000_000 + 2)
    with pytest.raises(BrokenStream, match="16 MiB"):
        list(chain.from_iterable(map(reader.feed, pieces)))


def test_a_long_stream_of_small_events_is_not_taken_for_a_large_event() -> None:
    reader = EventReader()
    event = b"data: " + b"x" * 1_000_000 + b"\n\n"
    assert sum(len(list(reader.feed(event))) for _ in range(20)) == 20


def test_tool_calls_are_told_apart_by_index() -> None:
    start = [{"index": n, "id": f"c{n}", "function": {"name": f"t{n}", "arguments": ""}} for n in (0, 1)]
    more = [{"index": n, "function": {"arguments": f'{{"n":{n}}}'}} for n in (1, 0)]
    reply = built({"tool_calls": start}, {"tool_calls": [more[0]]}, {"tool_calls": [more[1]]})
    assert reply.tool_calls == (ToolCall("c0", "t0", '{"n":0}'), ToolCall("c1", "t1", '{"n":1}'))


def test_tool_calls_are_told_apart_by_id_where_all_have_the_same_index_or_none() -> None:
    for place in ({"index": 0}, {}):
        calls = [{**place, "id": f"c{n}", "function": {"name": "t", "arguments": "{}"}} for n in (0, 1)]
        reply = built({"tool_calls": [calls[0]]}, {"tool_calls": [calls[1]]})
        assert [call.id for call in reply.tool_calls] == ["c0", "c1"]


def test_a_tool_call_without_id_gets_one() -> None:
    assert built({"tool_calls": [{"index": 0, "function": {"name": "t"}}]}).tool_calls[0].id == "call_0"


def test_a_character_cut_in_two_is_told_when_it_is_whole() -> None:
    told: list[str] = []
    builder = ReplyBuilder("m", told.append)
    for text in ("a\ud83d", "\ude00b", "\ud83d"):
        builder.add({"choices": [{"delta": {"content": text}}]})
    assert builder.reply(0).content == "a😀b\ufffd"
    assert told == ["a", "😀b", "\ufffd"]


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": 1},
        {"choices": [1]},
        {"choices": [{"delta": 1}]},
        {"choices": [{"delta": {"tool_calls": ["x"]}}]},
    ],
)
def test_a_chunk_of_the_wrong_shape_is_refused(chunk: dict[str, Any]) -> None:
    with pytest.raises(BrokenStream):
        ReplyBuilder("m", None).add(chunk)


@given(TEXTS, TEXTS)
def test_an_estimate_grows_with_the_text_and_is_never_below_a_quarter_of_it(text: str, more: str) -> None:
    assert estimate_text(text) * 4 >= len(text)
    assert estimate_text(text + more) >= estimate_text(text)


def test_an_estimate_counts_messages_tools_and_calls() -> None:
    plain = estimate_tokens([Message("user", "x" * 40)])
    assert plain >= 10 + 4
    assert estimate_tokens([Message("user", "x" * 40)], [ToolSpec("t", "d" * 40, {})]) >= plain + 10
    assert estimate_tokens([Message("assistant", "x" * 40, (ToolCall("1", "t", "y" * 40),))]) >= plain + 10
    assert estimate_text("漢字" * 10) == 20


def test_retry_after_is_read_in_seconds_milliseconds_and_as_a_date() -> None:
    assert retry_after_seconds({"retry-after": "2.5"}) == 2.5
    assert retry_after_seconds({"retry-after": "9", "retry-after-ms": "250"}) == 0.25
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 27 < (retry_after_seconds({"retry-after": soon}) or 0) <= 30
    assert retry_after_seconds({"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT"}) == 0
    for nonsense in ("nan", "-1", "inf", "soon", ""):
        assert retry_after_seconds({"retry-after": nonsense}) is None


MESSAGES = st.builds(
    Message,
    st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
    TEXTS,
    st.lists(st.builds(ToolCall, TEXTS, TEXTS, TEXTS), max_size=2).map(tuple),
    st.none() | TEXTS,
    st.none() | TEXTS,
)


@given(MESSAGES)
def test_a_recorded_message_is_read_back_unchanged(message: Message) -> None:
    assert Message.from_json(json.loads(json.dumps(message.to_json()))) == message


def test_a_recorded_usage_survives_integers_becoming_floats() -> None:
    assert Usage.from_json({"input_tokens": 3.0, "output_tokens": 4.0, "estimated": True}) == Usage(
        3, 4, estimated=True
    )
    assert ToolSpec.from_json(ToolSpec("t", "d", {"type": "object"}).to_json()) == ToolSpec(
        "t", "d", {"type": "object"}
    )


def test_a_role_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="role"):
        Message.from_json({"role": "robot", "content": ""})
