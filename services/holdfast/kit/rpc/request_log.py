"""Each RPC leaves one log line when it ends: method, code, milliseconds, peer; never a payload."""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Any, Final

import grpc

from holdfast.kit.errors import Status
from holdfast.kit.rpc.layer import EXEMPT, Behaviour, Context, Layer
from holdfast.kit.telemetry import logs

_log: Final = logs.logger("rpc")
Ended = Callable[[str, str, float], None]
_OURS: Final = frozenset({Status.INTERNAL, Status.UNKNOWN, Status.DATA_LOSS, Status.UNAVAILABLE})


class RequestLogLayer(Layer):
    """Logs a call's end: at info, at debug if it is one of the `hot` methods and went well.

    Belongs outside of the fault layer, where every exception has become the code that the client gets. `hot`
    holds full method names (`/holdfast.v1.InvokerService/Invoke`). `ended` is told of each call its
    method, its code and its seconds. Health and reflection are not logged.
    """

    def __init__(self, hot: Collection[str] = (), ended: Ended | None = None) -> None:
        super().__init__()
        self._hot = frozenset(hot)
        self._ended = ended

    def around(self, method: str, inner: Behaviour) -> Behaviour:
        """Await `inner` and log how it ended."""
        if method.startswith(EXEMPT):
            return inner
        well = logs.DEBUG if method in self._hot else logs.INFO
        ended = self._ended

        async def logged(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            code = Status.UNKNOWN.value
            try:
                response = await inner(request, context)
                code = _code(context, Status.OK)
            except asyncio.CancelledError:
                code = _cut_short(context)
                raise
            except grpc.aio.BaseError:
                code = _code(context, Status.CANCELLED)  # no code: the client had gone before the answer
                raise
            finally:
                seconds = time.perf_counter() - started
                if ended is not None:
                    ended(method, code, seconds)
                good = code in ("OK", "CANCELLED")
                level = well if good else logs.WARNING if code in _OURS else logs.INFO
                if _log.enabled(level):
                    milliseconds = round(seconds * 1000, 3)
                    _log.write(level, "call", method=method, code=code, ms=milliseconds, peer=context.peer())
            return response

        return logged


def _code(context: Context, unless: Status) -> str:
    code: Any = context.code()  # None until someone set it
    return code.name if isinstance(code, grpc.StatusCode) else unless.value


def _cut_short(context: Context) -> str:
    left: float | None = context.time_remaining()
    return "DEADLINE_EXCEEDED" if left is not None and left <= 0 else "CANCELLED"
