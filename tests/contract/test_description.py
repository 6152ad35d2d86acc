"""What the contract says of itself is complete, and names nothing that does not exist."""

import json
import re

import pytest
from google.protobuf import json_format

from holdfast.client import errors
from holdfast.kit.errors import FAULTS
from holdfast.v1 import error_reason_pb2, invoker_service_pb2
from tests.contract.description import ERRORS, PACKAGE, ROOT, Rpc, elements, errors_of, rpcs

PREFIX = f"{PACKAGE}.ErrorReason.ERROR_REASON_"
REASONS = {
    element.name.removeprefix(PREFIX): element.comment
    for element in elements()
    if element.name.startswith(PREFIX) and not element.name.endswith("_UNSPECIFIED")
}
SEED = {
    "run_id": "7b0e6c1a-5d0c-4f57-9a51-0a1b5a0c9a11",
    "intent": "support.triage",
    "caller": {"tenant": "acme", "user": "u123"},
    "budget": {
        "deadline_ms": 15000,
        "max_steps": 10,
        "max_tools": 5,
        "max_tokens": 12000,
        "max_context": 8000,
    },
    "idempotency_key": "acme:support.triage:42",
    "correlation_id": "parent-uuid",
    "payload": {"ticket": {"id": 42, "tags": ["urgent", None], "vip": True, "score": 0.5}},
}


def test_every_element_is_described() -> None:
    found = elements()
    assert {element.kind for element in found} >= {
        "message",
        "field",
        "oneof",
        "enum",
        "value",
        "service",
        "rpc",
    }
    assert [element.name for element in found if not element.comment] == []


@pytest.mark.parametrize("rpc", rpcs(), ids=lambda rpc: rpc.path)
def test_every_rpc_names_its_errors_and_only_existing_ones(rpc: Rpc) -> None:
    named = errors_of(rpc)
    assert named <= set(REASONS)
    found = ERRORS.search(rpc.comment)
    assert found
    listed = found[1].split(", ")
    assert len(listed) == len(set(listed)), "a reason is named twice"


def test_every_reason_of_the_contract_is_known_on_both_sides_with_the_code_its_comment_names() -> None:
    told = {reason: comment.split(":")[0] for reason, comment in REASONS.items()}
    assert told == {reason: fault.status.value for reason, fault in FAULTS.items()}
    assert told == {reason: error.code for reason, error in errors.BY_REASON.items()}


def test_the_facts_a_reason_promises_are_named_where_its_class_is() -> None:
    for reason, comment in REASONS.items():
        for fact in re.findall(r"metadata `(\w+)`", comment):
            assert f"`{fact}`" in str(FAULTS[reason].__doc__), f"{reason} promises {fact}"


def test_a_reason_travels_under_its_name_without_the_prefix() -> None:
    names = [name for name in error_reason_pb2.ErrorReason.keys() if not name.endswith("UNSPECIFIED")]  # noqa: SIM118
    assert {name.removeprefix("ERROR_REASON_") for name in names} == set(REASONS)


def test_the_seed_s_envelope_is_an_invocation_unchanged() -> None:
    request = json_format.Parse(json.dumps(SEED), invoker_service_pb2.InvokeRequest())
    told = json_format.MessageToDict(request, preserving_proto_field_name=True)
    told["budget"] = {name: int(value) for name, value in told["budget"].items()}  # JSON of int64 is text
    assert told == SEED


def test_the_readme_s_envelope_is_an_invocation_too() -> None:
    text = (ROOT / "README.md").read_text()
    envelope = re.search(r"grpcurl -plaintext -d '(\{\n.*?\n\})'", text, re.DOTALL)
    assert envelope
    request = json_format.Parse(envelope[1], invoker_service_pb2.InvokeRequest())
    assert set(SEED) <= {field.name for field, _ in request.ListFields()}
