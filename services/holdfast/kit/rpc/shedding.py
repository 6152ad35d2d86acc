"""Who was refused just now is refused at the door, before the request is read: cheaply.

A refusal that says when to come again is about the caller and the moment, not about the request. While a
caller offers more than is taken, as much of it is asked about as is taken and a little more, which notices
when there is room; the rest gets the last refusal again. Its share is that of "Handling Overload" in Site
Reliability Engineering (Beyer et al., 2016): a call is refused with the probability
(offered - K * taken) / (offered + 1), of the last moments. Whoever was not refused lately, or calls seldom,
is always asked about.
"""

import math
import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

import grpc

from holdfast.kit.auth.capability import HEADER as CAPABILITY
from holdfast.kit.auth.credential import HEADER as CREDENTIAL
from holdfast.kit.errors import Fault, ResourceExhausted
from holdfast.kit.rpc.layer import EXEMPT, Behaviour, Context, Handler, Layer
from holdfast.kit.rpc.request_log import Ended
from holdfast.kit.rpc.status import to_grpc
from holdfast.kit.rpc.tenant import KEY as TENANT
from holdfast.kit.rpc.tenant import current_tenant

Shed = Callable[[str, Fault], None]
"""Is told the tenant and the fault of each call that was refused at the door."""
Caller = tuple[str | bytes, ...]
"""A method, and what names the caller in a call's metadata."""

MEMORY: Final = 0.3
"""Seconds after which a call counts e times less."""
MORE: Final = 1.1
"""K: as many times what is taken is asked about."""
FASTER: Final = 4.0
"""And so many times more for each second in which none of them was refused: there may be more room again."""
ALWAYS: Final = 6.0
"""Calls within the memory that are asked about whatever became of others."""
BEFORE: Final = 300.0
"""What is supposed to have been taken when the first refusal comes: nothing was counted until then."""
MOST_CALLERS: Final = 10_000
_GONE: Final = 0.001


class Share:
    """What a caller offered, was asked about and was refused lately; times are seconds of any one clock."""

    def __init__(self, now: float) -> None:
        self.undecided = 0
        self._offered = self._asked = BEFORE
        self._refused = 0.0
        self._time = self._refused_last = now

    def offer(self, now: float, chance: float) -> bool:
        """Count a call and say whether to ask about it; `chance` is drawn evenly from 0 to 1.

        What nobody has decided about yet counts as refused, so no queue of questions builds up.
        """
        self._fade(now)
        taken = max(0.0, self._asked - self._refused - self.undecided)
        more = MORE + FASTER * (now - self._refused_last)
        asked = chance * (self._offered + 1.0) >= self._offered - more * taken - ALWAYS
        self._offered += 1.0
        self._asked += asked
        return asked

    def refuse(self, now: float) -> None:
        """Count a call that was asked about and refused."""
        self._fade(now)
        self._refused += 1.0
        self._refused_last = now

    def is_over(self, now: float) -> bool:
        """Say whether the last refusals are so long ago that they mean nothing any more."""
        self._fade(now)
        return self._refused < _GONE

    def _fade(self, now: float) -> None:
        left = math.exp((self._time - now) / MEMORY)
        self._offered *= left
        self._asked *= left
        self._refused *= left
        self._time = now


class _Refused:
    """A caller who was refused lately, and how."""

    def __init__(self, share: Share, tenant: str, fault: Fault) -> None:
        self.share = share
        self.tenant = tenant
        self.fault = fault
        self.handler = _refusing(fault)


class _Question:
    """A call of such a caller, from when it is asked about until that is decided."""

    def __init__(self, share: Share) -> None:
        self._share: Share | None = share
        share.undecided += 1

    def end(self) -> None:
        """Note that it is decided; repeatable."""
        if self._share is not None:
            self._share.undecided -= 1
            self._share = None


_question: ContextVar[_Question | None] = ContextVar("holdfast_question", default=None)


def taken() -> None:
    """Say that the call that this task serves is not refused any more, if it goes on for long from here."""
    question = _question.get()
    if question is not None:
        question.end()


class Refusals:
    """The callers who were refused lately: what the layer inside learns, the door outside goes by."""

    def __init__(self, ended: "Ended | None" = None, shed: "Shed | None" = None) -> None:
        self._ended = ended
        self._shed = shed
        self._callers: dict[Caller, _Refused] = {}

    def __bool__(self) -> bool:
        """Say whether anybody was refused lately."""
        return bool(self._callers)

    def answer(self, details: grpc.HandlerCallDetails) -> "Handler | None":
        """Return what refuses a call, or None if it is to be asked about."""
        caller = _caller(details.method, details.invocation_metadata)
        known = self._callers.get(caller)
        if known is None:
            return None
        now = time.monotonic()
        if known.share.is_over(now):
            del self._callers[caller]
            return None
        if known.share.offer(now, random.random()):  # noqa: S311 - it thins out, and keeps no secret
            return None
        if self._ended is not None:
            self._ended(details.method, known.fault.status.value, 0.0)
        if self._shed is not None:
            self._shed(known.tenant, known.fault)
        return known.handler

    def ask(self, caller: Caller) -> _Question | None:
        """Begin a question, if the caller was refused lately."""
        known = self._callers.get(caller)
        return None if known is None else _Question(known.share)

    def note(self, caller: Caller, fault: Fault) -> None:
        """Remember that a caller was refused, unless too many are remembered."""
        now = time.monotonic()
        known = self._callers.get(caller)
        if known is None:
            if len(self._callers) >= MOST_CALLERS:
                self._callers = {key: one for key, one in self._callers.items() if not one.share.is_over(now)}
            if len(self._callers) >= MOST_CALLERS:
                return  # such a caller goes on being asked about
            known = self._callers[caller] = _Refused(Share(now), current_tenant(), fault)
        known.share.refuse(now)


class ShedDoor(grpc.aio.ServerInterceptor):
    """Refuses calls before anything else is done for them; the outermost of all layers."""

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Any]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return what serves the call, or what refuses it."""
        if self._refusals:
            refusing = self._refusals.answer(handler_call_details)
            if refusing is not None:
                return refusing
        handler: Handler | None = await continuation(handler_call_details)
        return handler


class ShedLayer(Layer):
    """Learns of refusals that say when to come again; belongs between the identity and the crowd."""

    def __init__(self, refusals: Refusals) -> None:
        super().__init__()
        self._refusals = refusals

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Wrap what takes one message: who streams some would learn of a refusal by a failed write only."""
        return handler if handler.request_streaming else super().wrap(method, handler)

    def around(self, method: str, inner: Behaviour) -> Behaviour:
        """Await `inner`, and note if it refuses its caller for now."""
        if method.startswith(EXEMPT):
            return inner

        async def noted(request: Any, context: Context) -> Any:
            question = None
            if self._refusals:
                question = self._refusals.ask(_caller(method, context.invocation_metadata()))
                _question.set(question)  # the task is the call's own: nothing to reset
            try:
                return await inner(request, context)
            except ResourceExhausted as fault:
                if fault.retry_after is not None:
                    self._refusals.note(_caller(method, context.invocation_metadata()), fault)
                raise
            finally:
                if question is not None:
                    question.end()

        return noted


def _caller(method: str, metadata: Any) -> Caller:
    """Return who calls, as far as the metadata tells it before anything is verified.

    A call with a capability is about one run and counts by itself, as do all of that run.
    """
    named = [value for key, value in metadata or () if key in (CREDENTIAL, TENANT, CAPABILITY)]
    return (method, *named)


def _refusing(fault: Fault) -> Handler:
    status = to_grpc(fault)

    async def refuse(_requests: Any, context: Context) -> None:
        context.set_code(status.code)
        context.set_details(status.details)
        context.set_trailing_metadata(status.trailing_metadata)

    return grpc.stream_stream_rpc_method_handler(refuse)  # which reads nothing
