"""Events that services staged with `enqueue_run` become runs, each once and in order, or are set aside."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from holdfast.invoker.door import Door
from holdfast.invoker.envelope import read_envelope
from holdfast.invoker.intents import Intents
from holdfast.kit import crash_point
from holdfast.kit.db import Database
from holdfast.kit.errors import Fault, Internal, InvalidField, ResourceExhausted, Unavailable, Violation
from holdfast.kit.loops import Loop
from holdfast.kit.rpc.payload import value_of
from holdfast.kit.telemetry import span
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger import inbox
from holdfast.ledger.inbox import InboxEvent, Refusal
from holdfast.ledger.values import Admitted, Invocation
from holdfast.v1 import invoker_service_pb2, run_pb2

UNASKED_SECONDS: Final = 30.0
"""Whoever looks at the clock wakes this loop; after this long it looks by itself."""

_log: Final = logger("inbox")


@dataclass(slots=True)
class _Fates:
    """What became of a turn's events; those in neither stay."""

    moved: list[InboxEvent] = field(default_factory=list)
    refused: dict[tuple[str, int], Refusal] = field(default_factory=dict)

    def refuse(self, event: InboxEvent, fault: Fault) -> None:
        """Set an event aside."""
        of = fault.violations[0].field if isinstance(fault, InvalidField) and fault.violations else ""
        self.refused[event.tenant, event.seq] = Refusal(fault.reason, fault.message, of)


class Inbox:
    """Moves staged events on through the ordinary door; any number of Invokers take turns.

    An event that can never be a run is set aside and holds nobody up. One that a limit of its tenant refuses
    now stays, and its tenant is passed over until then.
    """

    def __init__(self, db: Database, door: Door, intents: Intents, *, max_attempts: int) -> None:
        self._db = db
        self._door = door
        self._intents = intents
        self._max_attempts = max_attempts
        self._after = ""
        self._pressed: dict[str, float] = {}
        self.loop = Loop("inbox", self.run_once, interval=UNASKED_SECONDS, max_backoff=1.0)

    async def run_once(self) -> int:
        """Move some events on; return how many left the inbox."""
        now = time.monotonic()
        self._pressed = {tenant: until for tenant, until in self._pressed.items() if until > now}
        async with inbox.turn(self._db, after=self._after, passed_over=self._pressed) as held:
            if held is None:
                return 0
            fates = _Fates()
            await self._move(held.events, fates)
            if fates.moved:
                crash_point.reach("invoker.inbox_admitted")
            await inbox.settle(held, fates.moved, fates.refused)
        before, self._after = self._after, held.events[-1].tenant if held.events else ""
        for (tenant, seq), cause in fates.refused.items():
            _log.warning("event set aside", tenant=tenant, event_id=seq, reason=cause.reason)
        # At the end of the circle there may be some from its beginning on.
        return len(fates.moved) + len(fates.refused) or int(bool(before) and not held.events)

    async def _move(self, events: Sequence[InboxEvent], fates: _Fates) -> None:
        group: list[tuple[InboxEvent, Invocation]] = []
        intent_of: dict[tuple[str, str], str] = {}
        for event in events:
            try:
                invocation = await self._read(event)
            except Unavailable:
                raise
            except Fault as fault:
                fates.refuse(event, fault)
                continue
            lane = (event.tenant, event.ordering_key)
            # Runners of one intent may have room and those of another none: the second of an order must not
            # be let in where the first was not.
            if not event.ordering_key or intent_of.setdefault(lane, event.intent) == event.intent:
                group.append((event, invocation))
        answers = await self._door.admit_together([invocation for _, invocation in group])
        if len(group) > 1 and all(isinstance(answer, Internal) for answer in answers):
            for one in group:  # whichever it was, it fails alone
                (answer,) = await self._door.admit_together([one[1]])
                if not self._settle(one[0], answer, fates):
                    break
            return
        for (event, _), answer in zip(group, answers, strict=True):
            self._settle(event, answer, fates)

    def _settle(self, event: InboxEvent, answer: Admitted | BaseException, fates: _Fates) -> bool:
        """Note what became of an event; False if it stays."""
        if isinstance(answer, Admitted):
            fates.moved.append(event)
        elif isinstance(answer, ResourceExhausted):
            until = time.monotonic() + (answer.retry_after or 1.0)
            self._pressed[event.tenant] = min(until, self._pressed.get(event.tenant, until))
            return False
        elif isinstance(answer, Unavailable) or not isinstance(answer, Fault):
            raise answer  # nothing of this turn is settled; it is taken again
        else:
            fates.refuse(event, answer)
        return True

    async def _read(self, event: InboxEvent) -> Invocation:
        request = _envelope(event)
        invocation = read_envelope(
            request,
            tenant=event.tenant,
            shape=run_pb2.SHAPE_WORKER,
            max_attempts=self._max_attempts,
            event=True,
        )
        await self._intents.check(event.intent)
        return invocation


def _envelope(event: InboxEvent) -> invoker_service_pb2.InvokeRequest:
    """Return the event as the contract has it. Raises InvalidField for JSON that the contract cannot hold."""
    request = invoker_service_pb2.InvokeRequest(
        intent=event.intent,
        idempotency_key=event.idempotency_key,
        ordering_key=event.ordering_key,
        correlation_id=event.correlation_id,
        priority=event.priority,
        caller=run_pb2.Caller(tenant=event.tenant, user=event.caller_user),
        labels=_labels(event),
        # Of no use is no reason to set an event aside.
        traceparent=event.traceparent if span.is_traceparent(event.traceparent) else "",
    )
    if event.not_before is not None:
        request.not_before.FromDatetime(event.not_before)
    try:
        payload = json.loads(event.payload)
        if not isinstance(payload, dict):
            raise _malformed("payload", "is what a source received and could make no payload of")
        request.payload.CopyFrom(value_of(payload).struct_value)
    except (ValueError, OverflowError, RecursionError, TypeError) as error:
        raise _malformed("payload", "is more than the contract's JSON can hold") from error
    return request


def _labels(event: InboxEvent) -> Mapping[str, str]:
    labels = json.loads(event.labels)
    if not all(isinstance(value, str) for value in labels.values()):
        raise _malformed("labels", "must have texts as values")
    return labels  # type: ignore[no-any-return] # the function that staged it took nothing but objects


def _malformed(of: str, problem: str) -> InvalidField:
    return InvalidField(f"{of} {problem}", violations=[Violation(of, problem)])
