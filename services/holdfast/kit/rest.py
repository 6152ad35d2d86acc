"""Groups that follow each other closely rest between, the longer the larger they are.

A group costs a transaction and more, whatever is in it. Where much arrives, a moment's rest makes fewer and
larger groups of it, which saves more time than it takes. Where little arrives groups are small and hardly
rest; one alone never does, so a lone call waits for nobody. Whoever sees that a group was full and has
left some for the next begins none.
"""

import asyncio
from typing import Final

EACH: Final = 0.0002
"""Seconds of rest for each in a group but the first."""
LONGEST: Final = 0.006
"""Seconds."""


class Rest:
    """The rest between the groups of one line."""

    def __init__(self) -> None:
        self._over = float("-inf")

    def begin(self, together: int) -> None:
        """Begin it: a group of so many has just ended."""
        self._over = asyncio.get_running_loop().time() + min(LONGEST, EACH * (together - 1))

    async def end(self) -> None:
        """Wait for what is left of it, if that is anything."""
        left = self._over - asyncio.get_running_loop().time()
        if left > 0:
            await asyncio.sleep(left)
