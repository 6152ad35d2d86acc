"""The filters and the page of a list of runs, checked."""

from datetime import UTC, datetime

from holdfast.invoker.envelope import Violations
from holdfast.ledger.run_list import Cursor, RunFilter
from holdfast.ledger.values import RunStatus
from holdfast.v1 import invoker_service_pb2, run_pb2

DEFAULT_PAGE = 50
MAX_PAGE = 500


def list_filters(request: invoker_service_pb2.ListRunsRequest) -> tuple[RunFilter, int, Cursor | None]:
    """Return what a list request asks for; raise InvalidField naming each malformed field."""
    wrong = Violations()
    if not 0 <= request.page_size <= MAX_PAGE:
        wrong.add("page_size", f"must be between 0 and {MAX_PAGE}")
    after = _cursor(request.page_token, wrong) if request.page_token else None
    for field, value in (
        ("intent", request.intent),
        ("session_id", request.session_id),
        ("correlation_id", request.correlation_id),
    ):
        wrong.text(field, value)
    if any(status not in run_pb2.RunStatus.values() or status == 0 for status in request.statuses):
        wrong.add("statuses", "hold a value that is not a status")
    wrong.labels("labels", request.labels)
    parent = wrong.run_id("parent_run_id", request.parent_run_id) if request.parent_run_id else None
    times = {name: _time(request, name, wrong) for name in ("create_time_from", "create_time_before")}
    wrong.settle()
    which = RunFilter(
        statuses=tuple(RunStatus(status) for status in dict.fromkeys(request.statuses)),
        intent=request.intent,
        session_id=request.session_id,
        correlation_id=request.correlation_id,
        create_time_from=times["create_time_from"],
        create_time_before=times["create_time_before"],
        labels=dict(request.labels),
        parent_run_id=parent,
    )
    return which, request.page_size or DEFAULT_PAGE, after


def _time(request: invoker_service_pb2.ListRunsRequest, name: str, wrong: Violations) -> datetime | None:
    if not request.HasField(name):  # type: ignore[arg-type]  # one of the two time fields
        return None
    try:
        moment: datetime = getattr(request, name).ToDatetime(UTC)
    except (ValueError, OverflowError):
        wrong.add(name, "is not a time")
        return None
    return moment


def _cursor(token: str, wrong: Violations) -> Cursor | None:
    try:
        cursor = Cursor.parse(token)
    except ValueError:
        cursor = None
    if cursor is None or not 0 <= cursor.seq < 1 << 63:
        wrong.add("page_token", "is not one that this call gave")
        return None
    return cursor
