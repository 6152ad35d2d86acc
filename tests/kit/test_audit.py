"""What the audit keeps of a request: its ids and names, of whatever kind they are, and nothing else."""

from holdfast.kit.auth.audit import subject_of
from holdfast.v1.access_service_pb2 import CreateTokenRequest
from holdfast.v1.event_service_pb2 import RetryRefusedEventRequest
from holdfast.v1.invoker_service_pb2 import CancelRunRequest


def test_an_id_is_kept_whether_it_is_text_or_a_number() -> None:
    assert subject_of(RetryRefusedEventRequest(event_id=7)) == {"event_id": "7"}
    assert subject_of(CancelRunRequest(run_id="r", reason="why")) == {"run_id": "r", "reason": "why"}


def test_of_repeated_names_all_are_kept() -> None:
    request = CreateTokenRequest(name="ci", roles=["read", "invoke"])
    assert subject_of(request) == {"name": "ci", "roles": "read,invoke"}
