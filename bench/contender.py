"""A contender answers questions in a process of its own, whatever it is made of: ours and the peers alike."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.embedded import EmbeddedPostgres

_SECONDS_PER_QUESTION = 1800.0  # a soak on a busy machine
_ROOT = Path(__file__).parent.parent

Answer = dict[str, Any]


class Unavailable(Exception):  # noqa: N818 - it is a state of the peer, not an error of ours
    """The contender has no answer here; its text is the reason, one sentence for the report."""


@dataclass(frozen=True)
class Contender:
    """How to start a contender, and the ways it offers of doing the same work."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    variants: tuple[str, ...] = ("",)
    concurrency: tuple[int, ...] = (64, 256)
    postgres: bool = False

    async def ask(self, *question: str) -> Answer:
        """Start the contender with a question, wait for its answer, and end whatever it started.

        Raises Unavailable if it declines, fails, or needs longer than ten minutes.
        """
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            return await self._ask(question, {"BENCH_SCRATCH": scratch})

    async def _ask(self, question: tuple[str, ...], scratch: Mapping[str, str]) -> Answer:
        async with self._database() as database:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                *question,
                cwd=_ROOT,
                env={**os.environ, **self.environment, **scratch, **database},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            try:
                async with asyncio.timeout(_SECONDS_PER_QUESTION):
                    said, complained = await process.communicate()
            except TimeoutError:
                raise Unavailable(f"no answer within {_SECONDS_PER_QUESTION:.0f} s") from None
            finally:
                _end_group(process.pid)
        if process.returncode != 0:
            last = complained.decode(errors="replace").strip().splitlines()[-1:]
            raise Unavailable(f"ended with status {process.returncode}: {' '.join(last)}")
        answered: Answer = {}
        for line in said.decode().splitlines():
            answered |= json.loads(line)
        if "unsupported" in answered:
            raise Unavailable(str(answered["unsupported"]))
        return answered

    @asynccontextmanager
    async def _database(self) -> AsyncIterator[Mapping[str, str]]:
        if not self.postgres:
            yield {}
            return
        async with EmbeddedPostgres(ephemeral=True) as server:
            yield {"BENCH_DATABASE_URL": server.url("postgres")}


def _end_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return  # it cleaned up behind itself


OURS = Contender(name="ours", command=(sys.executable, "-m", "bench.ours"))
