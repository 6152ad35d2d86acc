"""What the ledger counts is written under the contract's names, every number under its own."""

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.kit.rpc.run import write_limits, write_time, write_usage
from holdfast.ledger.domain.budget import Limits, Usage
from holdfast.v1 import run_pb2


def test_limits_and_usage_keep_each_number_under_its_name() -> None:
    budget, usage = run_pb2.Budget(), run_pb2.Usage()
    write_limits(budget, Limits(deadline_ms=1, max_steps=2, max_tools=3, max_tokens=4, max_context=5))
    write_usage(usage, Usage(steps=1, tools=2, tokens=3, context=4))
    assert budget == run_pb2.Budget(deadline_ms=1, max_steps=2, max_tools=3, max_tokens=4, max_context=5)
    assert usage == run_pb2.Usage(steps=1, tools=2, tokens=3, context=4)


@pytest.mark.parametrize("since", [timedelta(), timedelta(days=20_000, seconds=7, microseconds=123_456)])
def test_a_time_keeps_its_microseconds(since: timedelta) -> None:
    written, moment = Timestamp(), datetime(1970, 1, 1, tzinfo=UTC) + since
    write_time(written, moment)
    assert written.ToDatetime(tzinfo=UTC) == moment
