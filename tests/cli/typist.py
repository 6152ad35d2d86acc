"""Somebody at a real terminal: a pseudo-terminal that controls the process, what it shows, and keys."""

import asyncio
import fcntl
import os
import pty
import re
import sys
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

CONTROL_C, CONTROL_D = b"\x03", b"\x04"
_STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Typist:
    """Types on the terminal and reads from it; `shown` is all so far, without colours."""

    def __init__(self, process: asyncio.subprocess.Process, terminal: int) -> None:
        self._process = process
        self._terminal = terminal
        self._raw = b""
        self._place = 0
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(terminal, self._read)

    @property
    def shown(self) -> str:
        """All that was shown so far."""
        return _STYLE.sub("", self._raw.decode(errors="replace")).replace("\r", "")

    def type(self, line: str) -> None:
        """Type a line and its end."""
        os.write(self._terminal, line.encode() + b"\r")

    def press(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._terminal, keys)

    async def sees(self, text: str, *, deadline: float = 60.0) -> None:
        """Wait until a text is shown after all that was waited for before."""
        try:
            async with asyncio.timeout(deadline):
                while (place := self.shown.find(text, self._place)) < 0:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"{text!r} was not shown, but: {self.shown[self._place :]}") from None
        self._place = place + len(text)

    async def insists(self, keys: bytes, text: str) -> None:
        """Press keys at a prompt until a text is shown, as a person does.

        Python's `input` does not hear of a signal that comes after its prompt and before it waits.
        """
        for deadline in (5.0, 5.0, 60.0):
            self.press(keys)
            try:
                await self.sees(text, deadline=deadline)
                break
            except TimeoutError:
                if deadline > 5.0:
                    raise

    async def ended(self, *, deadline: float = 60.0) -> int:
        """Wait for the process to end; return its exit code."""
        return await asyncio.wait_for(self._process.wait(), deadline)

    def close(self) -> None:
        """Take the terminal away."""
        asyncio.get_running_loop().remove_reader(self._terminal)
        os.close(self._terminal)

    def _read(self) -> None:
        try:
            self._raw += os.read(self._terminal, 1 << 16)
        except OSError:  # nobody has the other side open any more
            asyncio.get_running_loop().remove_reader(self._terminal)
        self._changed.set()


@asynccontextmanager
async def typist(*arguments: str, folder: Path, environment: Mapping[str, str]) -> AsyncIterator[Typist]:
    """Start `holdfast` on a terminal of its own."""
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        *arguments,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env={**kept, "TERM": "xterm", **environment},
        start_new_session=True,
    )
    os.close(theirs)
    somebody = Typist(process, ours)
    try:
        yield somebody
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        somebody.close()


if __name__ == "__main__":  # in the new session: let the terminal control it, so that Ctrl-C is a signal
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.execv(sys.executable, [sys.executable, "-m", "holdfast.cli", *sys.argv[1:]])
