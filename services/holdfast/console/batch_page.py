"""One batch: how far it is while it goes, how fast, what failed alike, and everything to be done about it."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any, Final, Literal

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from holdfast.client import (
    Batch,
    BatchItem,
    BatchItemStatus,
    BatchProgress,
    Client,
    HoldfastError,
    errors,
)
from holdfast.console.batch_shape import ORDER, look
from holdfast.console.clients import client_of
from holdfast.console.entry import Mistyped, whole
from holdfast.console.guard import form_of
from holdfast.console.live import KEEPALIVE_S, event, pause, stream
from holdfast.console.page import done, failed, fragment, page, sentence
from holdfast.console.session import say, session_of
from holdfast.console.words import number

_MOST_ITEMS: Final = 100
_GATHER_S: Final = 0.3
_PIECES: Final = ("state", "actions", "errors")


async def show(request: Request) -> Response:
    """Show a batch."""
    batch, progress = await client_of(request).batches.get(request.path_params["batch_id"])
    return page(request, "batch.html", **look(batch, progress, session_of(request)))


async def live(request: Request) -> Response:
    """Stream a batch to its page, each time whole, until it has ended."""
    return stream(request, _Following(request).events())


class _Following:
    """One page that follows one batch."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._latest: tuple[Batch, BatchProgress] | None = None
        self._changed = asyncio.Event()
        self._trouble = ""
        self._shown: dict[str, str] = {}

    async def events(self) -> AsyncGenerator[str]:
        reading = asyncio.create_task(self._read())
        try:
            while True:
                over = reading.done()
                self._changed.clear()
                for each in self._new():
                    yield each
                if over:
                    await reading  # raises what has ended it, if the page cannot go on
                    if not self._trouble:
                        yield event("over", "")  # otherwise the page connects anew
                    return
                if not await pause(self._request, _GATHER_S):
                    return
                if not self._changed.is_set():
                    yield ": still here\n\n"
                    if not await pause(self._request, KEEPALIVE_S, self._changed):
                        return
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, errors.Unauthenticated):
                await reading

    def _new(self) -> list[str]:
        told = []
        trouble = fragment(self._request, "trouble.html", text=self._trouble) if self._trouble else ""
        pieces = {"trouble": trouble}
        if self._latest is not None:
            seen = look(*self._latest, session_of(self._request))
            pieces |= {name: fragment(self._request, f"batch_{name}.html", **seen) for name in _PIECES}
            pieces["numbers"] = fragment(self._request, "batch_numbers.html", **seen)
        for name, text in pieces.items():
            if self._shown.get(name) != text:
                self._shown[name] = text
                told.append(event(name, text))
        return told

    async def _read(self) -> None:
        batch_id = self._request.path_params["batch_id"]
        try:
            async with client_of(self._request).batches.watch(batch_id) as updates:
                async for each in updates:
                    self._latest = each
                    self._changed.set()
        except errors.Unauthenticated:
            raise
        except HoldfastError as error:
            self._trouble = sentence(error)
        finally:
            self._changed.set()


_DONE: Final = {
    "start": "The batch runs.",
    "pause": "It starts no further items until somebody resumes it.",
    "resume": "It goes on; failures until now count no longer.",
    "cancel": "It ends: what waits is not run, what runs is cancelled.",
    "parallelism": "That many items may be in flight from now on.",
}


async def act(request: Request) -> Response:
    """Do one thing with a batch."""
    form, batch_id, action = form_of(request), request.path_params["batch_id"], request.path_params["action"]
    client, here = client_of(request), f"/batches/{batch_id}"
    if action not in {*_DONE, "retry", "rollback"}:
        raise HTTPException(404)
    reason = form.get("reason") or f"by {session_of(request).user} in the console"
    try:
        told = await _act(client, batch_id, action, form, reason)
    except Mistyped as error:
        say(request, str(error), "bad")
        return RedirectResponse(here, 303)
    except HoldfastError as error:
        return failed(request, error, form, here)
    return done(request, told, form, here)


async def _act(
    client: Client,
    batch_id: str,
    action: str,
    form: Mapping[str, str],
    reason: str,
) -> str:
    """Do it; return what is said of it."""
    batches = client.batches
    if action == "start":
        await batches.start(batch_id)
    elif action == "pause":
        await batches.pause(batch_id, reason)
    elif action == "resume":
        await batches.resume(batch_id)
    elif action == "cancel":
        await batches.cancel(batch_id, reason)
    elif action == "parallelism":
        await batches.update(batch_id, max_parallelism=whole(form.get("items", ""), "Items in flight"))
    elif action == "retry":
        _, count = await batches.retry(batch_id, failure_reason=form.get("failure", ""))
        return f"{number(count)} item{'s are' if count != 1 else ' is'} tried again."
    else:
        _, count = await batches.rollback(batch_id, reason)
        return f"{number(count)} item{'s are' if count != 1 else ' is'} undone, the newest first."
    return _DONE[action]


async def items(request: Request) -> Response:
    """Show items, by where they stand, by their failure or by their class."""
    batch_id = request.path_params["batch_id"]
    given = {
        name: request.query_params.get(name, "").strip() for name in ("status", "failure", "label", "key")
    }
    status = BatchItemStatus.__members__.get(given["status"].upper())
    client = client_of(request).batches
    batch, progress = await client.get(batch_id)
    found: list[BatchItem] = []
    async for item in client.items(
        batch_id,
        statuses=(status,) if status else (),
        label=given["label"],
        failure_reason=given["failure"],
        keys=(given["key"],) if given["key"] else (),
    ):
        found.append(item)
        if len(found) >= _MOST_ITEMS:
            break
    return page(
        request,
        "batch_items.html",
        batch=batch,
        items=found,
        given=given,
        statuses=[each for each in ORDER if progress.counts.get(each)],
        counts=progress.counts,
        most=_MOST_ITEMS,
    )


async def export(request: Request) -> Response:
    """Send the items as a file, as they come."""
    batch_id = request.path_params["batch_id"]
    batches = client_of(request).batches
    form: Literal["jsonl", "csv"] = "csv" if request.query_params.get("form") == "csv" else "jsonl"
    await batches.get(batch_id)  # what is not there is told as a page, not as a broken file
    headers: dict[str, Any] = {"content-disposition": f'attachment; filename="batch-{batch_id}.{form}"'}
    kind = "text/csv" if form == "csv" else "application/x-ndjson"
    return StreamingResponse(batches.export(batch_id, form=form), media_type=kind, headers=headers)
