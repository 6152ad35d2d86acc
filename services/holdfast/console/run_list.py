"""The runs page: newest first, filtered, page by page, and live while its first page is shown."""

from collections.abc import AsyncGenerator
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from holdfast.client import HoldfastError, Run, RunStatus, errors
from holdfast.console.clients import client_of
from holdfast.console.live import event, pause, stream
from holdfast.console.page import fragment, page

PAGE: Final = 50
LOOK_EVERY_S: Final = 2.0
_GROUPS: Final = {
    "waiting": (RunStatus.QUEUED, RunStatus.PARKED),
    "running": (RunStatus.RUNNING, RunStatus.COMPENSATING),
    "succeeded": (RunStatus.SUCCEEDED, RunStatus.PARTIAL),
    "failed": (RunStatus.FAILED, RunStatus.DEAD_LETTERED, RunStatus.DRIFTED),
    "undone": (RunStatus.CANCELLED, RunStatus.COMPENSATED),
}
_FIELDS: Final = ("status", "intent", "session", "correlation", "parent", "label", "id")


def _given(request: Request) -> dict[str, str]:
    return {name: request.query_params.get(name, "").strip() for name in _FIELDS}


async def _look(request: Request, given: dict[str, str], page_token: str) -> tuple[list[Run], str]:
    which: dict[str, Any] = {
        "statuses": _GROUPS.get(given["status"], ()),
        "intent": given["intent"],
        "session_id": given["session"],
        "correlation_id": given["correlation"],
        "parent_run_id": given["parent"],
    }
    name, equals, value = given["label"].partition("=")
    if equals and name:
        which["labels"] = {name: value}
    return await client_of(request).page_of_runs(page_token=page_token, page_size=PAGE, **which)


def _query(given: dict[str, str], **more: str) -> str:
    return urlencode({name: value for name, value in {**given, **more}.items() if value})


async def show(request: Request) -> Response:
    """Show a page of runs."""
    given = _given(request)
    if given["id"]:
        return RedirectResponse(request.url_for("run", run_id=given["id"]), 303)
    token = request.query_params.get("page", "")
    runs, following = await _look(request, given, token)
    return page(
        request,
        "runs.html",
        runs=runs,
        given=given,
        groups=[("", "All"), *((name, name.capitalize()) for name in _GROUPS)],
        links={name: _query({**given, "status": name}) for name in ("", *_GROUPS)},
        following=_query(given, page=following) if following else "",
        live="" if token else _query(given),
        first=not token,
        filtered=any(given.values()),
    )


async def live(request: Request) -> Response:
    """Stream the first page's rows whenever they have changed."""
    given = _given(request)

    async def rows() -> AsyncGenerator[str]:
        shown: list[Run] | None = None
        quiet = 0
        while True:
            try:
                runs, _ = await _look(request, given, "")
            except errors.Unauthenticated:
                raise
            except HoldfastError as error:
                yield event("trouble", fragment(request, "trouble.html", text=error.message))
                shown = None
            else:
                if runs != shown:
                    if shown is None:
                        yield event("trouble", "")
                    yield event("rows", fragment(request, "run_rows.html", runs=runs))
                    shown, quiet = runs, 0
            quiet += 1
            if quiet % 8 == 0:
                yield ": still here\n\n"
            if not await pause(request, LOOK_EVERY_S):
                return

    return stream(request, rows())
