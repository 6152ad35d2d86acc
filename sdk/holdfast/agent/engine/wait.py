"""Waits as steps: for a signal, which is the record and leaves the mailbox with it, or for a time."""

import asyncio
import json
from collections.abc import Awaitable
from datetime import datetime, timedelta
from typing import Any, Final

from holdfast.agent.codec import Shape
from holdfast.agent.engine.call import Call, Wait
from holdfast.agent.engine.mailbox import Mailbox
from holdfast.agent.engine.scope import Frame
from holdfast.agent.engine.waits import Waits
from holdfast.agent.error import NothingReceived
from holdfast.agent.step import Policy
from holdfast.agent.wire.draft import WAIT

LONGEST_KEY: Final = 255
"""Bytes of a mailbox key."""
LONGEST: Final = 31 * 24 * 3600.0
"""Seconds a wait may take."""
ONCE: Final = Policy(attempts=1)


class _SignalShape:
    """Records what was received, None if nothing came in time: JSON already, as large as a signal may be."""

    def record(self, value: tuple[str, Any] | None) -> tuple[bytes, tuple[str, Any] | None]:
        held = None if value is None else {"payload": value[1], "signal_id": value[0]}
        return json.dumps(held, ensure_ascii=False, separators=(",", ":")).encode(), value

    def read(self, encoded: bytes) -> tuple[str, Any] | None:
        held = json.loads(encoded)
        return None if held is None else (held["signal_id"], held["payload"])


SIGNAL: Final = _SignalShape()
_NOTHING: Final = Shape(None)


def receive_call(mailbox: Mailbox, waits: Waits, key: str, timeout: float | timedelta | None) -> Call:
    """Describe the wait for the next signal of a key, `timeout` at most. Raises ValueError."""
    if not key or "\0" in key or len(key.encode()) > LONGEST_KEY:
        raise ValueError(f"A mailbox key has 1 to {LONGEST_KEY} bytes and no NUL; {key[:40]!r} does not fit.")
    seconds = None if timeout is None else _seconds(timeout)
    asked = {"key": key, "timeout": seconds}
    return signal_call(mailbox, waits, key, name="receive", asked=asked, timeout=seconds)


def signal_call(
    mailbox: Mailbox,
    waits: Waits,
    key: str,
    *,
    name: str,
    asked: dict[str, Any],
    timeout: float | None = None,
) -> Call:
    """Describe a wait for the next signal of a key under a name of its own."""

    async def execute(step: str, frame: Frame) -> tuple[str, Any] | None:
        try:
            # A signal that is there is received, however short the wait.
            async with asyncio.timeout_at(waits.ends(step)):
                frame.received = await mailbox.receive(key)
        except TimeoutError:
            return None
        return frame.received.signal_id, json.loads(frame.received.payload)

    return Call(
        name=name,
        kind=WAIT,
        input=asked,
        policy=ONCE,
        result=SIGNAL,
        execute=execute,
        wait=Wait((key,), timeout),
    )


async def received(
    step: Awaitable[tuple[str, Any] | None], key: str, timeout: float | timedelta | None
) -> Any:
    """Return the payload that a wait has brought. Raises `NothingReceived`."""
    found = await step
    if found is None:
        assert timeout is not None  # or else it waited on
        raise NothingReceived(f"Nothing came under the key {key} within {_seconds(timeout):g} s.")
    return found[1]


def sleep_call(waits: Waits, delay: float | timedelta | datetime) -> Call:
    """Describe the wait for a time: after seconds, after a span, or at a moment. Raises ValueError."""
    if isinstance(delay, datetime):
        if delay.tzinfo is None:
            raise ValueError("A moment to sleep until has a time zone: a run may go on anywhere.")
        wait = Wait(until=delay.timestamp())
    else:
        wait = Wait(timeout=_seconds(delay))

    async def execute(step: str, _: Frame) -> None:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout_at(waits.ends(step)):
                await over
        except TimeoutError:
            return

    return Call(
        name="sleep",
        kind=WAIT,
        input={"seconds": wait.timeout, "until": wait.until},
        policy=ONCE,
        result=_NOTHING,
        execute=execute,
        wait=wait,
    )


def _seconds(span: float | timedelta) -> float:
    seconds = span.total_seconds() if isinstance(span, timedelta) else float(span)
    if not 0 <= seconds <= LONGEST:
        raise ValueError(f"A wait takes 0 seconds to 31 days, not {seconds:g} s.")
    return seconds
