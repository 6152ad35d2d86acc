"""What the requests about batches have in common, read and checked."""

from uuid import UUID

from holdfast.invoker.batch_policy import review_rule
from holdfast.invoker.batch_spec import check_tolerance
from holdfast.invoker.envelope import Violations
from holdfast.kit.rpc.page import cursor_of
from holdfast.kit.rpc.violation import Violations as PageViolations
from holdfast.ledger.batch_update import ReviewRule
from holdfast.v1 import batch_service_pb2 as pb


def batch_id_of(text: str, field: str = "batch_id") -> UUID:
    """Return the batch that a field names. Raises `InvalidField`."""
    wrong = Violations()
    batch_id = wrong.run_id(field, text)
    wrong.settle()
    assert batch_id is not None  # settle() raised otherwise
    return batch_id


def text_of(field: str, value: str) -> str:
    """Return a reason as it is, if it is not too long. Raises `InvalidField`."""
    wrong = Violations()
    wrong.text(field, value, limit=1000)
    wrong.settle()
    return value


def refuse(field: str, description: str) -> None:
    """Raise `InvalidField` for one field."""
    wrong = Violations()
    wrong.add(field, description)
    wrong.settle()


def tolerance_of(request: pb.ResumeBatchRequest | pb.UpdateBatchRequest) -> tuple[int, float] | None:
    """Return how many items may be skipped, by count and by share, if the request says so."""
    if not request.HasField("tolerance"):
        return None
    wrong = Violations()
    check_tolerance(wrong, "tolerance", request.tolerance)
    wrong.settle()
    return request.tolerance.max_items, request.tolerance.max_share


def review_of(request: pb.UpdateBatchRequest) -> ReviewRule | None:
    """Return the policy by which outputs are judged, if the request says one."""
    return review_rule(request.review) if request.HasField("review") else None


def number_of(wrong: PageViolations, kind: str, token: str) -> int | None:
    """Return where a page begins; None for the first. Notes a token that is none of ours."""
    cursor = cursor_of(wrong, kind, token)
    if not cursor:
        return None
    if not cursor.isdecimal() or len(cursor) > 18:  # noqa: PLR2004 - digits of a bigint
        wrong.add("page_token", "must be the next_page_token of a page before")
        return None
    return int(cursor)
