"""The review of a batch: a sample beside what is there now, a verdict on each, and then what is applied."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from holdfast.client import (
    ApplyEffect,
    BatchItem,
    Client,
    HoldfastError,
    Invocation,
    ItemReview,
    Stratum,
    errors,
)
from holdfast.console.batch_shape import look
from holdfast.console.clients import client_of
from holdfast.console.entry import Mistyped
from holdfast.console.guard import form_of
from holdfast.console.page import done, failed, page, sentence
from holdfast.console.session import say, session_of

_SIZES: Final = ("10", "20", "50")
_SPREADS: Final = (
    ("", "over all alike"),
    ("label", "over the classes of output"),
    ("confidence", "over how sure the agent is"),
)
_BOUNDS: Final = (0.5, 0.8, 0.95)
_BANDS: Final = ("below 0.5", "0.5 to 0.8", "0.8 to 0.95", "0.95 and more")
_VERDICTS: Final = {"accept": True, "reject": False}
_MOST_DESTINATIONS: Final = 100


@dataclass(frozen=True, slots=True)
class Row:
    """A field of an output beside what is there."""

    name: str
    before: Any
    after: Any
    changed: bool


_ABSENT: Final = object()


def compared(item: BatchItem) -> list[Row]:
    """Return the fields of an output beside those of what is there now, where it was sent."""
    after, before = item.output, item.current
    if not isinstance(after, Mapping) or not (before is None or isinstance(before, Mapping)):
        return [Row("output", before, after, before is not None and before != after)]
    there: Mapping[str, Any] = before or {}
    rows = []
    for name in dict.fromkeys((*there, *after)):
        was, becomes = there.get(name, _ABSENT), after.get(name, _ABSENT)
        known = before is not None
        rows.append(Row(name, _shown(was), _shown(becomes), known and was != becomes))
    return sorted(rows, key=lambda row: not row.changed)


def _shown(value: Any) -> Any:
    return None if value is _ABSENT else value


def _given(request: Request) -> dict[str, str]:
    asked = request.query_params
    size, spread, seed = asked.get("size", ""), asked.get("spread", ""), asked.get("seed", "")
    return {
        "size": size if size in _SIZES else "10",
        "spread": spread if spread in dict(_SPREADS) else "",
        "seed": seed if seed.isdecimal() and len(seed) < 10 else "1",  # noqa: PLR2004 - a number, not a text
    }


async def _sample(client: Client, batch_id: str, given: Mapping[str, str]) -> list[Stratum]:
    bounds = _BOUNDS if given["spread"] == "confidence" else ()
    return list(
        await client.batches.sample(
            batch_id,
            int(given["size"]),
            by_label=given["spread"] == "label",
            confidence_bounds=bounds,
            equal=bool(given["spread"]),
            seed=int(given["seed"]),
            unjudged_only=True,
        )
    )


async def show(request: Request) -> Response:
    """Show a sample, and the form that applies what was accepted."""
    client, batch_id = client_of(request), request.path_params["batch_id"]
    given, session = _given(request), session_of(request)
    batch, progress = await client.batches.get(batch_id)
    refusal, strata = "", list[Stratum]()
    try:
        strata = await _sample(client, batch_id, given)
    except errors.Unauthenticated:
        raise
    except errors.NotYetAvailable as error:
        refusal = f"Staged outputs cannot be looked at here yet. {error.message}"
    except HoldfastError as error:
        refusal = sentence(error)
    destinations = []
    if session.may("OutboxService/ListDestinations"):
        async for destination in client.outbox.list_destinations():
            destinations.append(destination.name)
            if len(destinations) >= _MOST_DESTINATIONS:
                break
    return page(
        request,
        "batch_review.html",
        **look(batch, progress, session),
        strata=[(_title(each, given["spread"]), each, _drawn(each)) for each in strata],
        refusal=refusal,
        given=given,
        sizes=_SIZES,
        spreads=_SPREADS,
        here=f"/batches/{batch_id}/review?{urlencode(given)}",
        another=f"/batches/{batch_id}/review?{urlencode({**given, 'seed': str(int(given['seed']) + 1)})}",
        destinations=destinations,
    )


def _title(stratum: Stratum, spread: str) -> str:
    if spread == "label":
        return stratum.label or "without a class"
    if spread == "confidence":
        return _BANDS[min(stratum.confidence_band, len(_BANDS) - 1)]
    return ""


def _drawn(stratum: Stratum) -> list[tuple[BatchItem, list[Row]]]:
    return [(item, compared(item)) for item in stratum.items]


async def judge(request: Request) -> Response:
    """Store the verdicts of a page, all of them or none."""
    form, batch_id = form_of(request), request.path_params["batch_id"]
    here = f"/batches/{batch_id}/review"
    try:
        reviews, rest = _verdicts(form)
        told = await client_of(request).batches.review(
            batch_id,
            reviews,
            rest=rest,
            rest_reason=form.get("rest_reason", "").strip(),
            reviewer=session_of(request).person,
        )
    except Mistyped as error:
        say(request, f"{error} Nothing was stored.", "bad")
        return RedirectResponse(here, 303)
    except HoldfastError as error:
        return failed(request, error, form, here)
    share = f" That is {told.accepted / told.judged:.0%}." if told.judged else ""
    met = " The batch's policy is met and has accepted the rest." if told.policy_met else ""
    text = f"Stored. Of {told.judged} judged one by one, {told.accepted} were accepted.{share}{met}"
    return done(request, text, form, here)


def _verdicts(form: Mapping[str, str]) -> tuple[list[ItemReview], bool | None]:
    """Return what a form says about items, and about the rest. Raises `Mistyped`."""
    reviews = [
        _review(int(index), accepted=_VERDICTS[value], form=form)
        for name, value in form.items()
        if (index := name.removeprefix("verdict-")) != name and index.isdecimal() and value in _VERDICTS
    ]
    rest = _VERDICTS.get(form.get("rest", ""))
    if not reviews and rest is None:
        raise Mistyped("Nothing was judged: accept or reject at least one item.")
    return reviews, rest


def _review(index: int, *, accepted: bool, form: Mapping[str, str]) -> ItemReview:
    reason, edited = form.get(f"reason-{index}", "").strip(), form.get(f"output-{index}")
    if not accepted:
        if not reason:
            raise Mistyped(f"Item {index} is rejected without a reason.")
        return ItemReview(index, accepted=False, reason=reason)
    if edited is None:
        return ItemReview(index, accepted=True, reason=reason)
    try:
        output = json.loads(edited)
    except ValueError as error:
        raise Mistyped(f"The edited output of item {index} is not JSON: {error}.") from None
    if output is None:
        raise Mistyped(f"The edited output of item {index} is null: reject it, or give an output.")
    return ItemReview(index, accepted=True, reason=reason, edited=output)


async def apply(request: Request) -> Response:
    """Apply what was accepted, or count it."""
    form, batch_id = form_of(request), request.path_params["batch_id"]
    here, dry = f"/batches/{batch_id}/review", form.get("only") == "count"
    try:
        target, rate = _target(form), _rate(form.get("rate", ""))
        _, count = await client_of(request).batches.apply(
            batch_id, target, items_per_second=rate, dry_run=dry
        )
    except Mistyped as error:
        say(request, f"{error} Nothing was applied.", "bad")
        return RedirectResponse(here, 303)
    except HoldfastError as error:
        return failed(request, error, form, here)
    if dry:
        return done(request, f"{count} would be applied; nothing has happened yet.", form, here)
    return done(request, f"{count} are being applied.", {}, f"/batches/{batch_id}")


def _target(form: Mapping[str, str]) -> ApplyEffect | Invocation | None:
    """Return what becomes of accepted outputs; None: what the batch itself says. Raises `Mistyped`."""
    destination, intent = form.get("destination", "").strip(), form.get("intent", "").strip()
    if destination and intent:
        raise Mistyped("Outputs go to a destination or to runs for an intent, not to both.")
    if destination:
        return ApplyEffect(destination, form.get("undo_destination", "").strip())
    return Invocation(intent) if intent else None


def _rate(text: str) -> float:
    try:
        rate = float(text or "0")
    except ValueError:
        rate = -1.0
    if not 0 <= rate < float("inf"):
        raise Mistyped("“At most so many a second” must be a number.")
    return rate
