"""The review of a batch: a sample beside what is there now, a verdict on each, and then what is applied."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from holdfast.client import BatchItem, BatchItemStatus, Client, HoldfastError, Stratum, errors
from holdfast.console.batch_form import BATCH_FIELDS, batch_mistakes, typed_target
from holdfast.console.batch_review_form import touched, verdicts_of
from holdfast.console.batch_shape import look
from holdfast.console.clients import client_of
from holdfast.console.entry import Mistyped, Reading, rate
from holdfast.console.guard import form_of
from holdfast.console.outbox_page import destination_names
from holdfast.console.page import done, page, sentence
from holdfast.console.session import say, session_of
from holdfast.console.words import number

_SIZES: Final = ("10", "20", "50")
_SPREADS: Final = (
    ("", "over all alike"),
    ("label", "over the classes of output"),
    ("confidence", "over how sure the agent is"),
)
_BOUNDS: Final = (0.5, 0.8, 0.95)
_BANDS: Final = ("below 0.5", "0.5 to 0.8", "0.8 to 0.95", "0.95 and more")
_NOTHING: Final[Mapping[str, str]] = {}


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
    return await _page(request)


async def _page(
    request: Request,
    typed: Mapping[str, str] = _NOTHING,
    wrong: str = "",
    flaws: Mapping[str, str] = _NOTHING,
) -> Response:
    """Return the sample with what was typed about it, and what is wrong with that, and where."""
    client, batch_id = client_of(request), request.path_params["batch_id"]
    given, session = _given(request), session_of(request)
    batch, progress = await client.batches.get(batch_id)
    refusal, strata, kept = "", list[Stratum](), list[BatchItem]()
    try:
        strata = await _sample(client, batch_id, given)
        kept = await _kept(client, batch_id, typed, strata)
    except errors.Unauthenticated:
        raise
    except errors.NotYetAvailable as error:
        refusal = f"Staged outputs cannot be looked at here yet. {error.message}"
    except HoldfastError as error:
        refusal = sentence(error)
    return page(
        request,
        "batch_review.html",
        status=400 if wrong else 200,
        **look(batch, progress, session),
        strata=[
            *([("no longer drawn", len(kept), _beside(kept))] if kept else []),
            *((_title(each, given["spread"]), each.population, _beside(each.items)) for each in strata),
        ],
        typed=typed,
        wrong=wrong,
        flaws=flaws,
        refusal=refusal,
        given=given,
        sizes=_SIZES,
        spreads=_SPREADS,
        drawn=urlencode(given),
        another=f"/batches/{batch_id}/review?{urlencode({**given, 'seed': str(int(given['seed']) + 1)})}",
        destinations=await destination_names(request),
    )


def _title(stratum: Stratum, spread: str) -> str:
    if spread == "label":
        return stratum.label or "without a class"
    if spread == "confidence":
        return _BANDS[min(stratum.confidence_band, len(_BANDS) - 1)]
    return ""


def _beside(items: Iterable[BatchItem]) -> list[tuple[BatchItem, list[Row]]]:
    return [(item, compared(item)) for item in items]


async def _kept(
    client: Client, batch_id: str, typed: Mapping[str, str], strata: Iterable[Stratum]
) -> list[BatchItem]:
    """Return what was typed about and is not drawn again, as others were staged or judged meanwhile."""
    drawn = {item.index for stratum in strata for item in stratum.items}
    keys = [key for index in touched(typed) if index not in drawn and (key := typed.get(f"key-{index}"))]
    return [item async for item in client.batches.items(batch_id, keys=keys)] if keys else []


async def judge(request: Request) -> Response:
    """Store the verdicts of a page, all of them or none."""
    form, batch_id = form_of(request), request.path_params["batch_id"]
    try:
        reviews, rest = verdicts_of(form)
        told = await client_of(request).batches.review(
            batch_id,
            reviews,
            rest=rest,
            rest_reason=form.get("rest_reason", "").strip(),
            reviewer=session_of(request).person,
        )
    except (Mistyped, HoldfastError) as error:
        return await _again(request, error, "Nothing was stored.")
    share = f" That is {told.accepted / told.judged:.0%}." if told.judged else ""
    met = " The batch's policy is met and has accepted the rest." if told.policy_met else ""
    counts = told.progress.counts
    all_of = ", ".join(
        f"{number(counts[status])} {status.name.lower()}"
        for status in (BatchItemStatus.ACCEPTED, BatchItemStatus.REJECTED, BatchItemStatus.STAGED)
        if counts.get(status)
    )
    text = f"Stored. Of {told.judged} judged one by one, {told.accepted} were accepted.{share}{met}"
    return done(request, f"{text} In all: {all_of}.", {}, _here(request))


def _here(request: Request) -> str:
    return f"/batches/{request.path_params['batch_id']}/review?{urlencode(_given(request))}"


async def _again(request: Request, error: Mistyped | HoldfastError, nothing: str) -> Response:
    """Return the page as it was left, and say why nothing was done."""
    if isinstance(error, errors.Unauthenticated):
        raise error
    wrong = f"{error} {nothing}" if isinstance(error, Mistyped) else sentence(error)
    flaws = batch_mistakes(error, {**BATCH_FIELDS, "intent": "", **form_of(request)}, {})
    return await _page(request, form_of(request), wrong, flaws)


def _rate(form: Mapping[str, str]) -> float:
    reading = Reading({"rate": form.get("rate", "").strip()})
    per_second = reading.take("rate", "At most so many a second", rate, 0.0)
    reading.settle()
    return per_second


async def apply(request: Request) -> Response:
    """Apply what was accepted, or count it."""
    form, batch_id = form_of(request), request.path_params["batch_id"]
    dry = form.get("only") == "count"
    try:
        target, per_second = typed_target(form), _rate(form)
        _, count = await client_of(request).batches.apply(
            batch_id, target, items_per_second=per_second, dry_run=dry
        )
    except (Mistyped, HoldfastError) as error:
        return await _again(request, error, "Nothing was applied.")
    if dry:
        say(request, f"{number(count)} would be applied; nothing has happened yet.")
        return await _page(request, form)
    return done(request, f"{number(count)} are being applied.", {}, f"/batches/{batch_id}")
