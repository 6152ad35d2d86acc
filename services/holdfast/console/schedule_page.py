"""The schedules: what starts by itself and when, what came of it, and everything to be done about that."""

import secrets
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from holdfast.client import FireResult, HoldfastError, Schedule, Schedules, errors
from holdfast.console.clients import client_of
from holdfast.console.entry import MARKED, Mistyped, moment
from holdfast.console.guard import form_of
from holdfast.console.outbox_page import destination_names
from holdfast.console.page import done, failed, fragment, page, sentence
from holdfast.console.schedule_form import (
    EMPTY,
    KINDS,
    OVERLAPS,
    STARTS,
    fields_of,
    kind_of,
    mistakes,
    schedule_of,
    timing_of,
    typed,
)
from holdfast.console.session import say, session_of

_MOST: Final = 300
_SOON: Final = 8
_VIEWS: Final = (("all", "All"), ("active", "Active"), ("paused", "Paused"))
_PAUSED: Final = {"all": None, "active": False, "paused": True}
_SHOWN_TIMES: Final = 5
_CAME_OF_IT: Final = {
    FireResult.STARTED: "It has fired.",
    FireResult.QUEUED: "It fires when the one before has ended.",
}


def _path(name: str) -> str:
    """Return where a schedule is shown: names may hold anything, so they are no part of the path."""
    return f"/schedules/of?{urlencode({'name': name})}"


async def show(request: Request) -> Response:
    """Show the schedules by name."""
    view, intent = request.query_params.get("view", "all"), request.query_params.get("intent", "").strip()
    view = view if view in _PAUSED else "all"
    found: list[Schedule] = []
    async for each in client_of(request).schedules.list(intent=intent, paused=_PAUSED[view]):
        found.append(each)
        if len(found) >= _MOST:
            break
    return page(
        request,
        "schedules.html",
        schedules=[(each, kind_of(each.timing), _path(each.name)) for each in found],
        view=view,
        views=_VIEWS,
        intent=intent,
        most=_MOST,
    )


async def show_one(request: Request) -> Response:
    """Show a schedule with its next times and what came of the latest."""
    schedules, name = client_of(request).schedules, request.query_params.get("name", "")
    schedule = await schedules.get(name)
    times = await schedules.preview(name, count=_SOON)
    return page(
        request,
        "schedule.html",
        schedule=schedule,
        kind=kind_of(schedule.timing),
        times=times,
        overlaps=dict(OVERLAPS),
        here=_path(name),
        edit=f"/schedules/edit?{urlencode({'name': name})}",
        once=secrets.token_urlsafe(16),
    )


async def show_new(request: Request) -> Response:
    """Show an empty form."""
    return await _form(request, EMPTY, new=True)


async def show_edit(request: Request) -> Response:
    """Show a schedule as a form."""
    schedule = await client_of(request).schedules.get(request.query_params.get("name", ""))
    return await _form(request, fields_of(schedule), new=False)


async def _form(
    request: Request,
    given: Mapping[str, str],
    *,
    new: bool,
    wrong: str = "",
    flaws: Mapping[str, str] | None = None,
) -> Response:
    return page(
        request,
        "schedule_form.html",
        status=400 if wrong else 200,
        given=given,
        new=new,
        wrong=wrong,
        flaws=flaws or {},
        starts=STARTS,
        kinds=KINDS,
        overlaps=OVERLAPS,
        destinations=await destination_names(request),
        here="/schedules" if new else _path(given["name"]),
    )


async def preview(request: Request) -> Response:
    """Return the next times of what is typed, as a fragment of the form."""
    given = {**EMPTY, **{name: value.strip() for name, value in request.query_params.items()}}
    try:
        timing = timing_of(given)
        times = await client_of(request).schedules.preview(timing, count=_SHOWN_TIMES)
    except Mistyped as error:
        return HTMLResponse(fragment(request, "schedule_times.html", times=(), wrong=str(error)))
    except HoldfastError as error:
        return HTMLResponse(fragment(request, "schedule_times.html", times=(), wrong=sentence(error)))
    return HTMLResponse(fragment(request, "schedule_times.html", times=times, wrong=""))


async def save(request: Request) -> Response:
    """Create a schedule."""
    given = typed(form_of(request))
    try:
        made = await client_of(request).schedules.create(
            schedule_of(given, user=session_of(request).claimed_user)
        )
    except (Mistyped, HoldfastError) as error:
        return await _again(request, given, error, new=True)
    say(request, f"“{made.name}” is set up.")
    return RedirectResponse(_path(made.name), 303)


async def change(request: Request) -> Response:
    """Replace a schedule; what the form does not show stays."""
    given = typed(form_of(request))
    schedules = client_of(request).schedules
    try:
        await schedules.update(schedule_of(given, await schedules.get(given["name"])))
    except (Mistyped, HoldfastError) as error:
        return await _again(request, given, error, new=False)
    say(request, "The schedule is changed.")
    return RedirectResponse(_path(given["name"]), 303)


async def _again(
    request: Request, given: Mapping[str, str], error: Mistyped | HoldfastError, *, new: bool
) -> Response:
    if isinstance(error, errors.Unauthenticated):
        raise error
    flaws = mistakes(error, given)
    wrong = sentence(error) if isinstance(error, HoldfastError) else str(error)
    return await _form(request, given, new=new, wrong=MARKED if flaws else wrong, flaws=flaws)


async def act(request: Request) -> Response:
    """Do one thing with a schedule."""
    form, action = form_of(request), request.path_params["action"]
    name = str(form.get("name", ""))
    here = "/schedules" if action == "delete" else _path(name)
    if action not in {"pause", "resume", "trigger", "delete", "backfill"}:
        raise HTTPException(404)
    try:
        told = await _act(client_of(request).schedules, name, action, form)
    except Mistyped as error:
        say(request, str(error), "bad")
        return RedirectResponse(here, 303)
    except HoldfastError as error:
        return failed(request, error, form, here)
    return done(request, told, form, here)


async def _act(schedules: Schedules, name: str, action: str, form: Mapping[str, str]) -> str:
    """Do it; return what is said of it."""
    if action == "pause":
        await schedules.pause(name, str(form.get("reason", "")))
        return "It does not fire until somebody resumes it."
    if action == "resume":
        await schedules.resume(name)
        return "It fires again from its next time on."
    if action == "delete":
        await schedules.delete(name)
        return f"“{name}” is deleted; what it has started goes on."
    if action == "trigger":
        fire = await schedules.trigger(name, idempotency_key=str(form.get("once", "")))
        return _CAME_OF_IT.get(fire.result, "") or f"It has started nothing. {fire.message}"
    return await _backfill(schedules, name, form)


async def _backfill(schedules: Schedules, name: str, form: Mapping[str, str]) -> str:
    start, end = moment(form.get("from", ""), "From"), moment(form.get("until", ""), "Until")
    if start is None or end is None:
        raise Mistyped("Say from when until when it is to make up for.")
    dry = form.get("only") == "count"
    count, times = await schedules.backfill(name, start, end, dry_run=dry)
    times_word = "time" if count == 1 else "times"
    if not dry:
        return f"It makes up for {count} {times_word}, one after the other."
    first = f" The first is {times[0]:%Y-%m-%d %H:%M} UTC." if times else ""
    return f"There would be {count} {times_word}; nothing has happened yet.{first}"
