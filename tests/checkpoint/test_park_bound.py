"""What a runner lets a run rest for is never more than the Checkpoint service takes."""

from holdfast.agent.engine.waits import MOST_KEYS
from holdfast.checkpoint.message_move import MAX_PARK_KEYS


def test_a_run_that_waits_for_all_it_may_can_also_be_woken_by_input() -> None:
    assert MOST_KEYS + 1 == MAX_PARK_KEYS
