"""Every field that the contract marks is sealed and opened again, wherever a message holds it."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from hypothesis import given
from hypothesis import strategies as st

from holdfast.payload import KEY, AesSiv, Sealing, is_sealed
from holdfast.v1 import (
    approval_service_pb2,
    batch_service_pb2,
    checkpoint_pb2,
    checkpoint_service_pb2,
    event_service_pb2,
    invoker_service_pb2,
    runner_service_pb2,
    sealing_pb2,
    transcript_pb2,
    work_service_pb2,
)

SEALING = Sealing(AesSiv({"k": b"k" * 32}))
STRANGER = Sealing(AesSiv({"s": b"s" * 32}))
WORD = "quicksilver"
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**50), 2**50)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc."), inner, max_size=4),
    max_leaves=12,
)
FILES = (
    approval_service_pb2,
    batch_service_pb2,
    checkpoint_service_pb2,
    event_service_pb2,
    invoker_service_pb2,
    runner_service_pb2,
    work_service_pb2,
)


def messages() -> Iterator[Descriptor]:
    for module in FILES:
        yield from module.DESCRIPTOR.message_types_by_name.values()


def fill(message: Message, depth: int) -> int:
    """Put the word into every sealable field, and say into how many."""
    filled = 0
    taken: set[str] = set()
    for field in message.DESCRIPTOR.fields:
        oneof = field.containing_oneof
        if oneof is not None and oneof.name in taken:
            continue
        before = filled
        entry = field.message_type
        if field.GetOptions().Extensions[sealing_pb2.sealable]:
            filled += 1
            _say(message, field.name)
        elif entry is not None and not entry.full_name.startswith("google.") and depth:
            if entry.GetOptions().map_entry:
                continue
            inside = _made(entry)
            count = fill(inside, depth - 1)
            if count and field.is_repeated:
                getattr(message, field.name).append(inside)
            elif count:
                getattr(message, field.name).CopyFrom(inside)
            filled += count
        if oneof is not None and filled > before:
            taken.add(oneof.name)
    return filled


def _made(kind: Any) -> Any:
    return message_factory.GetMessageClass(kind)()


def _say(message: Any, name: str) -> None:
    kind = message.DESCRIPTOR.fields_by_name[name]
    if kind.message_type is not None and kind.message_type.GetOptions().map_entry:
        getattr(message, name)["a"] = b'"%s"' % WORD.encode()
    elif kind.message_type is None:
        setattr(message, name, f'"{WORD}"'.encode() if kind.type == kind.TYPE_BYTES else WORD)
    elif kind.message_type.name == "Struct":
        getattr(message, name)["a"] = WORD
    else:
        getattr(message, name).string_value = WORD


@pytest.mark.parametrize("name", sorted(each.full_name for each in messages()))
def test_no_word_of_a_payload_is_left_and_all_come_back(name: str) -> None:
    message = _made(descriptor_pool.Default().FindMessageTypeByName(name))
    filled = fill(message, 6)
    plain = message.SerializeToString(deterministic=True)
    assert plain.count(WORD.encode()) == filled
    sealed = SEALING.sealed(message)
    assert message.SerializeToString(deterministic=True) == plain, "the caller's own stays as it is"
    assert WORD.encode() not in sealed.SerializeToString()
    assert SEALING.sealed(sealed) == sealed, "what is sealed is not sealed again"
    assert SEALING.opened(type(message).FromString(sealed.SerializeToString())) == message
    unread = STRANGER.opened(type(message).FromString(sealed.SerializeToString()))
    assert unread == sealed, "without the key it stays as it came"


def test_something_is_sealed_in_requests_answers_and_between_services() -> None:
    filled = {each.name: fill(_made(each), 6) for each in messages()}
    for name in (
        "InvokeRequest", "WatchRunResponse", "ConverseRequest", "ConverseResponse", "SignalRunRequest",
        "CommitRequest", "LoadRunResponse", "ListCheckpointsResponse", "ForkRunRequest", "AttachResponse",
        "LeaseResponse", "PublishEventsRequest", "RequestApprovalRequest", "DecideApprovalRequest",
        "CreateBatchRequest", "ReviewItemsRequest", "ListBatchItemsResponse", "GetSessionResponse",
    ):  # fmt: skip
        assert filled[name] > 0, name


@given(JSON)
def test_any_json_comes_back_as_it_was(plain: Any) -> None:
    message = invoker_service_pb2.SignalRunRequest()
    json_format.ParseDict(plain, message.payload)
    record = checkpoint_pb2.StepRecord(output=json.dumps(plain).encode())
    sealed = SEALING.sealed(message)
    assert is_sealed(json_format.MessageToDict(sealed.payload)) or KEY in str(plain)
    assert SEALING.opened(sealed) == message
    assert json.loads(SEALING.opened(SEALING.sealed(record)).output) == plain
    assert SEALING.opened_plain([json.loads(SEALING.sealed_json(json.dumps(plain).encode()))]) == [plain]


def test_equal_payloads_are_sealed_alike_in_whatever_order_they_were_written() -> None:
    one, other = Struct(), Struct()
    one.update({"a": 1, "b": {"c": [1, 2], "d": None}})
    other.update({"b": {"d": None, "c": [1, 2]}, "a": 1})
    first = invoker_service_pb2.InvokeRequest(payload=one)
    second = invoker_service_pb2.InvokeRequest(payload=other)
    assert SEALING.sealed(first) == SEALING.sealed(second)


def test_what_the_platform_wraps_is_opened_inside() -> None:
    inner = json.loads(SEALING.sealed_json(json.dumps({"word": WORD}).encode()))
    told = {"status": "SUCCEEDED", "results": [inner, 1, "a"], "more": {"result": inner}}
    message = invoker_service_pb2.SignalRunRequest()
    json_format.ParseDict(told, message.payload)
    record = checkpoint_pb2.StepRecord(output=json.dumps(told).encode())
    plain = {"status": "SUCCEEDED", "results": [{"word": WORD}, 1, "a"], "more": {"result": {"word": WORD}}}
    assert json_format.MessageToDict(SEALING.opened(message).payload) == plain
    assert json.loads(SEALING.opened(record).output) == plain
    kept = SEALING.sealed(record).SerializeToString()
    assert WORD.encode() not in kept
    assert SEALING.opened_record(kept) == record.SerializeToString()


def test_what_is_no_json_is_not_shown_either() -> None:
    message = invoker_service_pb2.InvokeRequest()
    message.payload.update({"word": WORD, "number": math.inf})
    sealed = SEALING.sealed(message)
    assert WORD not in str(sealed)
    assert math.isnan(sealed.payload.fields[KEY].number_value), "and is refused by who gets it"


@pytest.mark.parametrize("text", ["", "?", "AAAA", "a" * 50])
def test_what_only_looks_sealed_stays_as_it_is(text: str) -> None:
    message = transcript_pb2.Said(text=json.dumps({KEY: text}))
    assert SEALING.opened(transcript_pb2.Said(text=message.text)) == message
    value = Value()
    value.struct_value.fields[KEY].string_value = text
    request = invoker_service_pb2.SignalRunRequest(payload=value)
    assert SEALING.opened(invoker_service_pb2.SignalRunRequest(payload=value)) == request
    for odd in (b'{"holdfast.sealed":', b'{"holdfast.sealed":1}', b'{"holdfast.sealed":"","b":1}'):
        assert SEALING.opened(checkpoint_pb2.StepRecord(output=odd)).output == odd


@pytest.mark.parametrize("other", ["1", '"text"', "[1]", "null", "[" * 5000 + "]" * 5000, "no JSON"])
def test_what_was_sealed_for_another_place_breaks_nothing(other: str) -> None:
    moved = json.loads(SEALING.sealed_json(other.encode()))
    request = invoker_service_pb2.InvokeRequest()
    request.payload.update(moved)
    assert is_sealed(json_format.MessageToDict(SEALING.opened(request).payload)), "a Struct is an object"
    said = transcript_pb2.Said(text=json.dumps(moved))
    assert SEALING.opened(said).text == (json.loads(other) if other == '"text"' else json.dumps(moved))
    SEALING.opened_plain({"a": moved})
    signal = invoker_service_pb2.SignalRunRequest()
    json_format.ParseDict(moved, signal.payload)
    SEALING.opened(signal)
