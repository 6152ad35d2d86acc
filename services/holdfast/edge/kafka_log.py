"""What the library says while brokers are away, it says several times a second: here once a minute."""

import logging
import time
from typing import Final

_PAUSE_S: Final = 60.0
_MOST: Final = 1000
_LOGGERS: Final = "aiokafka", "aiokafka.consumer.fetcher", "aiokafka.consumer.group_coordinator"


class _Seldom(logging.Filter):
    """Lets each sentence through once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._until: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a line is written."""
        said, now = record.getMessage(), time.monotonic()
        if now < self._until.get(said, 0.0):
            return False
        if len(self._until) >= _MOST:
            self._until.clear()
        self._until[said] = now + _PAUSE_S
        return True


_seldom: Final = _Seldom()


def say_seldom() -> None:
    """Have the library say each thing seldom; repeatable."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_seldom)
