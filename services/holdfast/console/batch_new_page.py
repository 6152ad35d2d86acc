"""A batch made from a page: its items are a file's or a source's; an upload that broke off goes on."""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from holdfast.client import (
    Batch,
    BatchSpec,
    BatchStatus,
    HoldfastError,
    Invocation,
    errors,
)
from holdfast.console.batch_file import items_of
from holdfast.console.batch_form import BATCH_FIELDS, batch_mistakes, read_batch
from holdfast.console.batch_form import PLACES as BATCH_PLACES
from holdfast.console.clients import client_of
from holdfast.console.entry import MARKED, Mistyped, Reading, json_object, pairs
from holdfast.console.guard import file_of, form_of
from holdfast.console.outbox_page import destination_names
from holdfast.console.page import page, sentence
from holdfast.console.session import say, session_of
from holdfast.console.words import number

_EMPTY: Final[Mapping[str, str]] = {
    "intent": "",
    "payload": "{}",
    "run_labels": "",
    "key": "",
    "begin": "on",
    "once": "",
    **BATCH_FIELDS,
}
_PLACES: Final[Mapping[str, str]] = {
    "invocation": "payload",
    "invocation.intent": "intent",
    "invocation.payload": "payload",
    "invocation.labels": "run_labels",
    "spec.labels": "batch_labels",
    "spec.display_name": "display_name",
    "chunk": "file",
    **{f"spec.{path}": field for path, field in BATCH_PLACES.items()},
}


async def show(request: Request) -> Response:
    """Show an empty form; its key makes one batch of it, however often it is sent."""
    given = {**_EMPTY, "intent": request.query_params.get("intent", ""), "once": secrets.token_urlsafe(16)}
    return await _form(request, given)


async def _form(
    request: Request, given: Mapping[str, str], *, wrong: str = "", flaws: Mapping[str, str] | None = None
) -> Response:
    return page(
        request,
        "batch_new.html",
        status=400 if wrong else 200,
        given=given,
        wrong=wrong,
        flaws=flaws or {},
        destinations=await destination_names(request),
    )


async def create(request: Request) -> Response:
    """Make a batch, and send its items before the answer; nothing is made of a file with a mistake in it."""
    form, file = form_of(request), file_of(request, "file")
    given = {name: form.get(name, "").strip() for name in _EMPTY}
    try:
        spec = _spec(given, has_file=file is not None, user=session_of(request).claimed_user)
        items = None if file is None else await items_of(file, given["key"])
        batch = await client_of(request).batches.create(spec, items)
    except (Mistyped, HoldfastError) as error:
        return await _again(request, given, error)
    _tell(request, batch)
    return RedirectResponse(f"/batches/{batch.batch_id}", 303)


def _spec(given: Mapping[str, str], *, has_file: bool, user: str) -> BatchSpec:
    """Return the batch that is typed. Raises `Mistyped` with all that is wrong."""
    reading = Reading(given)
    if not given["intent"]:
        reading.miss("intent", "Say for which intent its items run.")
    if has_file and given["source"]:
        reading.miss("source", "Its items come from a file or from a source, not from both.")
    elif not has_file and not given["source"]:
        reading.miss("file", "Choose a file, or name a source.")
    envelope = Invocation(
        given["intent"],
        payload=reading.take("payload", "Payload", json_object, {}),
        user=user,
        labels=reading.take("run_labels", "Labels of its runs", pairs, {}),
    )
    spec = read_batch(reading, BatchSpec(envelope, idempotency_key=given["once"]))
    reading.settle()
    return replace(spec, start_when_uploaded=bool(given["begin"]))


def _tell(request: Request, batch: Batch) -> None:
    begun = batch.status is not BatchStatus.READY
    if batch.source is not None:
        say(request, "The batch is set up; its source is read.")
    else:
        say(request, f"{number(batch.uploaded_items)} items are here{' and run' if begun else ''}.")


async def _again(request: Request, given: Mapping[str, str], error: Mistyped | HoldfastError) -> Response:
    """Return the form as it was left; whoever sends it again goes on with the batch that it has begun."""
    if isinstance(error, errors.Unauthenticated):
        raise error
    flaws = batch_mistakes(error, given, _PLACES)
    if isinstance(error, errors.IdempotencyKeyReused):
        given = {**given, "once": secrets.token_urlsafe(16)}
    wrong = MARKED if flaws else sentence(error) if isinstance(error, HoldfastError) else str(error)
    return await _form(request, given, wrong=wrong, flaws=flaws)


async def go_on(request: Request) -> Response:
    """Send the rest of a file whose upload broke off: what is stored is passed over."""
    batch_id, file = request.path_params["batch_id"], file_of(request, "file")
    batches, here = client_of(request).batches, f"/batches/{request.path_params['batch_id']}"
    batch, _ = await batches.get(batch_id)
    try:
        items = await items_of(file, form_of(request).get("key", "").strip(), stored=batch.uploaded_items)
        _tell(request, await batches.create(BatchSpec(Invocation(batch.intent)), items, batch_id=batch_id))
    except Mistyped as error:
        say(request, str(error), "bad")
    except errors.Unauthenticated:
        raise
    except HoldfastError as error:
        say(request, sentence(error), "bad")
    return RedirectResponse(here, 303)
