"""Whatever a handler raises reaches the client as a status that a program can read and that leaks nothing."""

import secrets
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from holdfast.kit.errors import Fault, Internal, InvalidField, Violation
from holdfast.kit.rpc.layer import MAKE, Behaviour, Context, Handler, Layer, behaviour_of
from holdfast.kit.rpc.status import to_grpc
from holdfast.kit.telemetry.logs import logger

_log: Final = logger("rpc")

Translate = Callable[[BaseException], Fault | None]
"""Makes a fault of an exception that the kit does not know (`kit.db.as_fault`), or returns None."""


class FaultLayer(Layer):
    """Answers for a call: `Fault` → its status, unreadable request → INVALID_ARGUMENT, the rest → INTERNAL.

    What a task group raises counts as the first fault in it. An INTERNAL carries a random id in its facts;
    the log line with the same id holds the exception. A cancellation passes through: no one is left to hear.
    """

    def __init__(self, translate: Translate | None = None) -> None:
        super().__init__()
        self._translate: Translate = translate or _nothing

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Wrap; also read and write lone messages, which grpc would do where no one answers for failures."""
        answered = self._answered(method, self.around(method, behaviour_of(method, handler)), handler)
        reader, writer = handler.request_deserializer, handler.response_serializer
        return MAKE[handler.request_streaming, handler.response_streaming](
            answered,
            request_deserializer=_refusing(reader) if reader and handler.request_streaming else None,
            response_serializer=writer if handler.response_streaming else None,
        )

    def around(self, method: str, inner: Behaviour) -> Behaviour:
        """Leave the behaviour as it is: this layer also reads and writes, see `wrap`."""
        del method
        return inner

    def _answered(self, method: str, inner: Behaviour, handler: Handler) -> Behaviour:
        read = _refusing(handler.request_deserializer) if not handler.request_streaming else _as_is
        write = handler.response_serializer if not handler.response_streaming else None

        async def answered(request: Any, context: Context) -> Any:
            try:
                response = await inner(read(request), context)
                return response if write is None else write(response)
            except Fault as fault:
                await context.abort_with_status(to_grpc(fault))
            except grpc.aio.BaseError:
                raise  # an abort of the handler's own, or a call that is already over
            except Exception as error:  # noqa: BLE001 - this is the place where every exception ends
                await context.abort_with_status(to_grpc(self._fault_of(error, method)))

        return answered

    def _fault_of(self, error: Exception, method: str) -> Fault:
        causes = [*_leaves(error)]
        for cause in causes:
            if isinstance(cause, Fault):
                return cause
        known = next(filter(None, map(self._translate, causes)), None)
        if known is not None:
            _log.warning("call failed", method=method, reason=known.reason, error=type(error).__name__)
            return known
        error_id = secrets.token_hex(8)
        _log.error("unexpected error", error=error, method=method, error_id=error_id)
        return Internal(f"Unexpected error {error_id}.", facts={"error_id": error_id})


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


def _nothing(_: BaseException) -> Fault | None:
    return None


def _unreadable() -> InvalidField:
    wrong = Violation("", "the bytes are not a message of the request's type")
    return InvalidField("The request cannot be read.", violations=[wrong])


def _refusing(read: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Make a reader whose failure is a fault; in a stream it is raised in the handler's own iteration."""
    if read is None:
        return _as_is

    def reading(raw: bytes) -> Any:
        try:
            return read(raw)
        except DecodeError as error:
            raise _unreadable() from error

    return reading


def _as_is(message: Any) -> Any:
    return message
