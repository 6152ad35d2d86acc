"""What people type into the review of a batch, read into verdicts."""

import json
from collections.abc import Mapping
from typing import Final

from holdfast.client import ItemReview
from holdfast.console.entry import Mistyped

_VERDICTS: Final = {"accept": True, "reject": False}
_ABOUT_ITEMS: Final = ("verdict-", "reason-", "output-")


def verdicts_of(form: Mapping[str, str]) -> tuple[list[ItemReview], bool | None]:
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


def touched(form: Mapping[str, str]) -> list[int]:
    """Return the items about which a form says anything."""
    said = (name.partition("-")[2] for name, value in form.items() if value and name.startswith(_ABOUT_ITEMS))
    return sorted({int(index) for index in said if index.isdecimal()})


def _review(index: int, *, accepted: bool, form: Mapping[str, str]) -> ItemReview:
    reason, edited = form.get(f"reason-{index}", "").strip(), form.get(f"output-{index}")
    if not accepted:
        if not reason:
            raise _at(f"reason-{index}", f"Item {index} is rejected without a reason.")
        return ItemReview(index, accepted=False, reason=reason)
    if edited is None:
        return ItemReview(index, accepted=True, reason=reason)
    try:
        output = json.loads(edited)
    except ValueError as error:
        raise _at(f"output-{index}", f"The edited output of item {index} is not JSON: {error}.") from None
    if output is None:
        text = f"The edited output of item {index} is null: reject it, or give an output."
        raise _at(f"output-{index}", text)
    return ItemReview(index, accepted=True, reason=reason, edited=output)


def _at(field: str, text: str) -> Mistyped:
    return Mistyped(text, {field: text})
