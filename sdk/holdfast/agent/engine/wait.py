"""Waiting for a signal as a step: what was received is its record, and leaves the mailbox with it."""

import asyncio
import json
from collections.abc import Awaitable
from typing import Any, Final

from holdfast.agent.engine.call import Call
from holdfast.agent.engine.mailbox import Mailbox
from holdfast.agent.engine.scope import Frame
from holdfast.agent.error import NothingReceived
from holdfast.agent.step import Policy
from holdfast.agent.wire.draft import WAIT

LONGEST_KEY: Final = 255
"""Bytes of a mailbox key."""
_ONCE: Final = Policy(attempts=1)


class _SignalShape:
    """Records what was received, None if nothing came in time: JSON already, as large as a signal may be."""

    def record(self, value: tuple[str, Any] | None) -> tuple[bytes, tuple[str, Any] | None]:
        held = None if value is None else {"payload": value[1], "signal_id": value[0]}
        return json.dumps(held, ensure_ascii=False, separators=(",", ":")).encode(), value

    def read(self, encoded: bytes) -> tuple[str, Any] | None:
        held = json.loads(encoded)
        return None if held is None else (held["signal_id"], held["payload"])


_SHAPE: Final = _SignalShape()


def wait_call(mailbox: Mailbox, key: str, timeout: float | None) -> Call:
    """Describe the wait for the next signal of a key, `timeout` seconds at most. Raises ValueError."""
    if not key or "\0" in key or len(key.encode()) > LONGEST_KEY:
        raise ValueError(f"A mailbox key has 1 to {LONGEST_KEY} bytes and no NUL; {key[:40]!r} does not fit.")
    if timeout is not None and timeout < 0:
        raise ValueError(f"A wait takes 0 seconds or more, not {timeout}.")

    async def execute(_: str, frame: Frame) -> tuple[str, Any] | None:
        try:
            # A signal that is there is received, however short the wait.
            async with asyncio.timeout(timeout):
                frame.received = await mailbox.receive(key)
        except TimeoutError:
            return None
        return frame.received.signal_id, json.loads(frame.received.payload)

    return Call(
        name="receive",
        kind=WAIT,
        input={"key": key, "timeout": timeout},
        policy=_ONCE,
        result=_SHAPE,
        execute=execute,
    )


async def received(step: Awaitable[tuple[str, Any] | None], key: str, timeout: float | None) -> Any:
    """Return the payload that a wait has brought. Raises `NothingReceived`."""
    found = await step
    if found is None:
        raise NothingReceived(f"Nothing came under the key {key} within {timeout:g} s.")
    return found[1]
