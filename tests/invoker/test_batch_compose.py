"""A chunk of light items stays far below the limit of messages, whatever its items share."""

import uuid

from holdfast.invoker.batch_compose import CHUNK_BYTES, Composer
from holdfast.ledger.batch_advance import Due, Work
from holdfast.ledger.domain.budget import Limits
from holdfast.v1 import batch_pb2


def work(shared: int, own: int, items: int) -> Work:
    spec = batch_pb2.BatchSpec()
    spec.invocation.intent = "count"
    spec.invocation.payload.update({"guide": "x" * shared})
    return Work(
        tenant="acme",
        batch_id=uuid.uuid4(),
        spec=spec.SerializeToString(),
        priority=0,
        max_parallelism=200,
        defaults=Limits(),
        light=frozenset({"1"}),
        items=[Due(n, 1, b'{"n":"%s"}' % (b"y" * own)) for n in range(items)],
    )


def test_what_items_share_is_counted_with_each_of_them() -> None:
    chunks = Composer(max_attempts=3).compose(work(shared=100_000, own=1000, items=20))
    assert [item.index for each in chunks for item in each.items] == list(range(20))
    for each in chunks:
        assert len(each.invocation.envelope) < CHUNK_BYTES + 10_000
    assert max(len(each.items) for each in chunks) == 5


def test_small_items_fill_a_chunk_by_their_number() -> None:
    chunks = Composer(max_attempts=3).compose(work(shared=10, own=10, items=120))
    assert [len(each.items) for each in chunks] == [50, 50, 20]


def test_an_item_as_large_as_may_be_is_a_chunk_by_itself() -> None:
    chunks = Composer(max_attempts=3).compose(work(shared=1_000_000, own=10_000, items=3))
    assert [len(each.items) for each in chunks] == [1, 1, 1]
