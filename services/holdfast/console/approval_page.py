"""The approval inbox: what waits for people, the least time left first, and each decision with its reason."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from holdfast.client import Approval, ApprovalStatus, HoldfastError, errors
from holdfast.console.clients import client_of
from holdfast.console.guard import form_of
from holdfast.console.live import KEEPALIVE_S, event, pause, stream
from holdfast.console.page import done, failed, fragment, page
from holdfast.console.session import say, session_of

_MOST: Final = 100
_GATHER_S: Final = 0.3
_FAR: Final = datetime.max.replace(tzinfo=UTC)
_NOTHING: Final[Mapping[str, str]] = {}
_VIEWS: Final = {
    "mine": ("I may decide", (ApprovalStatus.PENDING,)),
    "all": ("All that wait", (ApprovalStatus.PENDING,)),
    "decided": (
        "Decided",
        (ApprovalStatus.APPROVED, ApprovalStatus.DENIED, ApprovalStatus.TIMED_OUT, ApprovalStatus.CANCELLED),
    ),
}


def _view(request: Request) -> str:
    wanted = request.query_params.get("view", "all")
    return wanted if wanted in _VIEWS else "all"


async def _found(request: Request, view: str) -> list[Approval]:
    approvals = client_of(request).approvals(session_of(request).person)
    found: list[Approval] = []
    async for each in approvals.list(statuses=_VIEWS[view][1], mine=view == "mine", page_size=_MOST):
        found.append(each)
        if len(found) >= _MOST:
            break
    if view == "decided":
        return sorted(found, key=lambda each: each.decide_time or _FAR, reverse=True)
    return sorted(found, key=lambda each: each.deadline_time or _FAR)


async def show(request: Request) -> Response:
    """Show the inbox."""
    view = _view(request)
    found = await _found(request, view)
    views = [(name, title) for name, (title, _) in _VIEWS.items()]
    return page(request, "approvals.html", approvals=found, view=view, views=views, most=_MOST)


async def live(request: Request) -> Response:
    """Stream the inbox whenever something in it has changed."""
    view = _view(request)
    approvals = client_of(request).approvals(session_of(request).person)
    changed = asyncio.Event()

    async def read() -> None:
        async with approvals.watch(mine=view == "mine") as inbox:
            async for _ in inbox:
                changed.set()

    async def told() -> AsyncGenerator[str]:
        reading = asyncio.create_task(read())
        shown: list[Approval] | None = None
        try:
            while not reading.done():
                changed.clear()
                found = await _found(request, view)
                if found == shown:
                    yield ": still here\n\n"
                else:
                    shown = found
                    yield event("inbox", fragment(request, "approval_list.html", approvals=found, view=view))
                if not (await pause(request, _GATHER_S) and await pause(request, KEEPALIVE_S, changed)):
                    return
            await reading  # raises what has ended it
        except errors.Unauthenticated:
            raise
        except HoldfastError as error:
            yield event("trouble", fragment(request, "trouble.html", text=error.message))
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, HoldfastError):
                await reading

    return stream(request, told())


async def show_one(request: Request) -> Response:
    """Show one approval with its audit log."""
    return await _one(request)


async def _one(request: Request, typed: Mapping[str, str] = _NOTHING) -> Response:
    """Return one approval, with what was typed about it."""
    approvals = client_of(request).approvals(session_of(request).person)
    found = await approvals.get(request.path_params["approval_id"], audit=True)
    entries = [(entry, _content(entry.content)) for entry in found.audit]
    status = 400 if typed else 200
    return page(request, "approval.html", status=status, approval=found, entries=entries, typed=typed)


def _content(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode("utf-8", "replace")


async def decide(request: Request) -> Response:
    """Approve, with an edited payload if there is one, or deny."""
    form, approval_id = form_of(request), request.path_params["approval_id"]
    approvals = client_of(request).approvals(session_of(request).person)
    reason = str(form.get("reason", "")).strip()
    here = "/approvals"
    revision = form.get("revision", "")
    seen = int(revision) if revision.isdecimal() else 0
    try:
        if form.get("verdict") == "deny":
            decided = await approvals.deny(approval_id, reason)
        elif form.get("verdict") == "edit":
            try:
                edited = json.loads(str(form.get("payload", "")))
            except ValueError as error:
                say(request, f"The edited payload is not JSON, so nothing was decided: {error}.", "bad")
                return await _one(request, form)
            decided = await approvals.approve(approval_id, reason, edited=edited, revision=seen)
        elif form.get("verdict") == "approve":
            decided = await approvals.approve(approval_id, reason, revision=seen)
        else:
            say(request, "Nothing was decided: choose to approve or to deny.", "bad")
            return await _one(request, form)
    except HoldfastError as error:
        return failed(request, error, form, here)
    if decided.status is ApprovalStatus.PENDING:
        return done(request, f"Your vote counts. “{decided.title}” waits for others.", form, here)
    return done(request, f"“{decided.title}” is {decided.status.name.lower()}.", form, here)
