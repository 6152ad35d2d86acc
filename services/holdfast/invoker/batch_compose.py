"""The envelopes of items' runs: what the spec says, with the item's payload over its own.

Of light items many share an envelope, in which each has its payload, and all the limits of one.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from holdfast.invoker.envelope import BUDGET_MAXIMA, limits_of, read_envelope
from holdfast.kit.rpc.payload import MAX_BYTES, plain_struct, value_of
from holdfast.ledger.batch_advance import Due, Prepared, Work
from holdfast.ledger.domain.batch import LIGHT_CHUNK, light_chunk, light_intent
from holdfast.ledger.domain.budget import Limits
from holdfast.ledger.values import Invocation
from holdfast.v1 import batch_pb2, invoker_service_pb2, run_pb2

CHUNK_BYTES: Final = MAX_BYTES // 2
"""Of the items of a chunk together, each with the batch's own payload; a larger one is a chunk by itself."""
CHUNK_ATTEMPTS: Final = 2
"""Leases of a chunk before its items are tried one by one: one of them may be what kills its runner."""
CHUNK_DEADLINE_MS: Final = 3_600_000
"""Beyond its items' own, after which a chunk that found no runner is given up and its items wait anew."""
_CHUNK_LIMITS: Final = Limits(
    max_steps=LIGHT_CHUNK * BUDGET_MAXIMA["max_steps"],
    max_tools=LIGHT_CHUNK * BUDGET_MAXIMA["max_tools"],
    max_tokens=LIGHT_CHUNK * BUDGET_MAXIMA["max_tokens"],
    max_context=BUDGET_MAXIMA["max_context"],
)


class Composer:
    """Makes envelopes; the spec of the batch asked for last is kept read."""

    def __init__(self, *, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._spec = b""
        self._invocation = invoker_service_pb2.InvokeRequest()
        self._payload: dict[str, Any] = {}
        self._beside = 0

    def compose(self, work: Work) -> list[Prepared]:
        """Return the items with the envelopes of their runs."""
        self._read(work.spec)
        version = self._invocation.agent_version
        if version in work.light if version else work.light:
            return [
                Prepared(items, self._chunk(work, items), light=True) for items in _chunks(work, self._beside)
            ]
        return [Prepared([item], self._single(work, item)) for item in work.items]

    def _single(self, work: Work, item: Due) -> Invocation:
        request = self._request(work)
        for name, value in json.loads(item.payload).items():
            request.payload.fields[name].CopyFrom(value_of(value))
        request.idempotency_key = f"batch/{work.batch_id}/{item.index}/{item.attempt}"
        return read_envelope(
            request, tenant=work.tenant, shape=run_pb2.SHAPE_BATCH, max_attempts=self._max_attempts
        )

    def _chunk(self, work: Work, items: Sequence[Due]) -> Invocation:
        """Return the envelope of a run that executes these items; their own limits go with them."""
        request = self._request(work)
        limits = limits_of(request.budget).over(work.defaults)
        text = json.dumps(
            {
                "batch_id": str(work.batch_id),
                "limits": [
                    limits.deadline_ms,
                    limits.max_steps,
                    limits.max_tools,
                    limits.max_tokens,
                    limits.max_context,
                ],
                "items": [
                    {
                        "index": item.index,
                        "attempt": item.attempt,
                        "payload": self._payload | json.loads(item.payload),
                    }
                    for item in items
                ],
            },
            ensure_ascii=False,
            separators=(",", ":"),
        )
        request.ClearField("payload")
        request.ClearField("budget")
        attempts = CHUNK_ATTEMPTS if len(items) > 1 else self._max_attempts
        envelope = read_envelope(
            request, tenant=work.tenant, shape=run_pb2.SHAPE_BATCH, max_attempts=attempts
        )
        request.payload.fields["chunk"].string_value = text  # past the limit of one payload: it has many
        request.intent = light_intent(envelope.intent)
        # An agent's `max_concurrent` may let them wait for each other.
        deadline_ms = CHUNK_DEADLINE_MS + len(items) * limits.deadline_ms
        return replace(
            envelope,
            intent=request.intent,
            limits=_CHUNK_LIMITS._replace(deadline_ms=deadline_ms),
            envelope=request.SerializeToString(),
        )

    def _request(self, work: Work) -> invoker_service_pb2.InvokeRequest:
        request = invoker_service_pb2.InvokeRequest()
        request.CopyFrom(self._invocation)
        request.priority = work.priority
        request.correlation_id = request.correlation_id or str(work.batch_id)
        return request

    def _read(self, spec: bytes) -> None:
        if spec != self._spec:
            self._invocation = batch_pb2.BatchSpec.FromString(spec).invocation
            self._payload = plain_struct(self._invocation.payload, "payload")
            self._beside = len(json.dumps(self._payload, ensure_ascii=False).encode())
            self._spec = spec


def _chunks(work: Work, beside: int) -> Iterator[list[Due]]:
    """Divide items into what one run executes, `beside` bytes with each; those that are to be alone are."""
    most = light_chunk(work.max_parallelism)
    chunk: list[Due] = []
    size = 0
    for item in work.items:
        if item.alone:
            yield [item]
            continue
        added = beside + len(item.payload)
        if chunk and (len(chunk) == most or size + added > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += added
    if chunk:
        yield chunk
