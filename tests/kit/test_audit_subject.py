"""What is kept of a call names what it was about, whatever kind of field says so."""

from holdfast.kit.auth.audit import subject_of
from holdfast.v1 import event_service_pb2, invoker_service_pb2


def test_an_id_that_is_a_number_is_kept_as_its_digits() -> None:
    assert subject_of(event_service_pb2.RetryRefusedEventRequest(event_id=7)) == {"event_id": "7"}


def test_ids_are_kept_and_payloads_are_not() -> None:
    request = invoker_service_pb2.InvokeRequest(run_id="r", intent="i")
    request.payload.update({"card_id": "secret"})
    assert subject_of(request) == {"run_id": "r"}
