"""The envelopes of items' runs: what the spec says, with the item's payload over its own."""

import json
from collections.abc import Sequence

from holdfast.invoker.envelope import read_envelope
from holdfast.kit.rpc.payload import value_of
from holdfast.ledger.batch_advance import Due, Prepared
from holdfast.ledger.values import Invocation
from holdfast.v1 import batch_pb2, invoker_service_pb2, run_pb2


class Composer:
    """Makes envelopes; the spec of the batch asked for last is kept read."""

    def __init__(self, *, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._spec = b""
        self._invocation = invoker_service_pb2.InvokeRequest()

    def compose(self, due: Sequence[Due]) -> list[Prepared]:
        """Return each item with the envelope of its run."""
        return [Prepared(item, self._envelope(item)) for item in due]

    def _envelope(self, item: Due) -> Invocation:
        request = self._template(item.spec)
        for name, value in json.loads(item.payload).items():
            request.payload.fields[name].CopyFrom(value_of(value))
        request.priority = item.priority
        request.idempotency_key = f"batch/{item.batch_id}/{item.index}/{item.attempt}"
        request.correlation_id = request.correlation_id or str(item.batch_id)
        return read_envelope(
            request, tenant=item.tenant, shape=run_pb2.SHAPE_BATCH, max_attempts=self._max_attempts
        )

    def _template(self, spec: bytes) -> invoker_service_pb2.InvokeRequest:
        if spec != self._spec:
            self._invocation = batch_pb2.BatchSpec.FromString(spec).invocation
            self._spec = spec
        request = invoker_service_pb2.InvokeRequest()
        request.CopyFrom(self._invocation)
        return request
