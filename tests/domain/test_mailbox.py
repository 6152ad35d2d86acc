import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.ledger.domain.mailbox import (
    INPUT,
    INTERRUPT,
    MAX_BYTES,
    MAX_WAITING,
    Box,
    Entry,
    InputPolicy,
    entry,
    is_urgent,
)
from holdfast.ledger.domain.status import ENDED, RunStatus

boxes = st.builds(
    Box,
    st.sampled_from(RunStatus),
    st.sampled_from(InputPolicy),
    st.integers(0, MAX_WAITING),
    st.integers(0, MAX_BYTES),
)


@given(boxes, st.sampled_from([INPUT, INTERRUPT, "decision"]), st.integers(0, MAX_BYTES))
def test_what_enters_leaves_the_mailbox_within_its_bounds_and_its_run_alive(
    box: Box, key: str, size: int
) -> None:
    decided = entry(box, key, size)
    if decided is Entry.ENTERS:
        assert box.status not in ENDED
        assert box.waiting + 1 <= MAX_WAITING
        assert box.bytes + size <= MAX_BYTES
        assert not (key == INPUT and box.policy is InputPolicy.REJECT)
    if box.status in ENDED:
        assert decided is Entry.ENDED


@pytest.mark.parametrize(
    ("policy", "key", "urgent"),
    [
        (InputPolicy.ENQUEUE, INPUT, False),
        (InputPolicy.INTERRUPT, INPUT, True),
        (InputPolicy.INTERRUPT, "decision", False),
    ],
)
def test_the_policy_speaks_of_input_alone(policy: InputPolicy, key: str, urgent: bool) -> None:  # noqa: FBT001
    box = Box(RunStatus.RUNNING, policy)
    assert is_urgent(box, key, asked=False) is urgent
    assert is_urgent(box, key, asked=True)
    rejecting = Box(RunStatus.RUNNING, InputPolicy.REJECT)
    assert entry(rejecting, key, 1) is (Entry.REJECTED if key == INPUT else Entry.ENTERS)
