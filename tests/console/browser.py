"""A headless Chromium, spoken to over its debugging pipe: no driver and no library between."""

import asyncio
import base64
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0
_ANSWER_S = 30.0
"""What is asked as a page goes away may never be answered."""

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WHY_NOT = "no Chromium is installed: `make browser` installs Debian's"


class Browser:
    """One page of a browser; `complaints` are what its console and its content policy said."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.WriteTransport) -> None:
        self.complaints: list[str] = []
        self._reader, self._writer = reader, writer
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._session = ""

    async def attach(self) -> None:
        """Open the page."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol and return its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        self._writer.write(json.dumps(message).encode() + b"\0")
        return await asyncio.wait_for(answer, _ANSWER_S)

    async def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def run(self, script: str) -> Any:
        """Return what an expression is in the page."""
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(json.dumps(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression is true in the page, also over a navigation."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(AssertionError, RuntimeError):
                    asking = asyncio.ensure_future(self.run(f"Boolean({script})"))
                    await asyncio.wait({asking}, timeout=2)
                    if asking.done() and asking.result():
                        return
                    asking.cancel()
                await asyncio.sleep(0.05)

    async def look(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Change the size and the colours of the screen."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def press(self, key: str) -> None:
        """Press a key."""
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        code = 13 if key == "Enter" else 0
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    async def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write what the page looks like."""
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    async def listen(self) -> None:
        """Take in what the browser says, until it is gone."""
        with suppress(asyncio.IncompleteReadError):
            while True:
                self._heard(json.loads((await self._reader.readuntil(b"\0"))[:-1]))

    def _heard(self, message: dict[str, Any]) -> None:
        answer = self._answers.pop(message.get("id", 0), None)
        if answer is not None and not answer.done():
            if "error" in message:
                answer.set_exception(RuntimeError(message["error"]["message"]))
            else:
                answer.set_result(message["result"])
        elif message.get("method") == "Log.entryAdded":
            self.complaints.append(message["params"]["entry"]["text"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(message["params"]["exceptionDetails"])[:500])
        elif message.get("method") == "Runtime.consoleAPICalled" and message["params"]["type"] == "error":
            self.complaints.append(json.dumps(message["params"]["args"])[:500])


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Start a browser of one's own; it is gone when the block ends."""
    assert EXECUTABLE is not None, WHY_NOT
    to_read, to_write = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(prefix="holdfast-browser-", ignore_cleanup_errors=True) as profile:
        command = [EXECUTABLE, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        command += ["--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={profile}", "about:blank"]
        # The protocol is spoken over the descriptors 3 and 4.
        shell = 'exec 3<&"$0" 4>&"$1"; shift; exec "$@"'
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", shell, str(to_read[0]), str(to_write[1]), *command),
            pass_fds=(to_read[0], to_write[1]),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        os.close(to_read[0])
        os.close(to_write[1])
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=64 * 1024 * 1024)
        incoming, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(to_write[0], "rb")
        )
        outgoing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(to_read[1], "wb"))
        page = Browser(reader, outgoing)
        listening = asyncio.create_task(page.listen())
        try:
            await page.attach()
            yield page
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            listening.cancel()
            outgoing.close()
            incoming.close()
