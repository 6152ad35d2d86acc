"""New ids sort by the time they were made."""

import time

from holdfast.kit.ids import new_id


def test_ids_are_version_7_of_rfc_9562_and_unlike_each_other() -> None:
    ids = [new_id() for _ in range(2000)]
    assert len(set(ids)) == len(ids)
    assert {one.version for one in ids} == {7}
    assert {one.variant for one in ids} == {"specified in RFC 4122"}


def test_an_id_begins_with_its_millisecond() -> None:
    before = time.time_ns() // 10**6
    made = new_id().int >> 80
    assert before <= made <= time.time_ns() // 10**6
