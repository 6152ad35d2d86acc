"""A service of the contract whose capability comes later says so, instead of pretending."""

from typing import Any

from holdfast.kit.errors import NotYetAvailable


def later(servicer: Any, sentence: str) -> Any:
    """Return a servicer whose every RPC answers UNIMPLEMENTED, reason NOT_YET_AVAILABLE, with the sentence.

    `servicer` is the generated base class (untyped, for its stub is abstract). A servicer that has some of
    its RPCs needs no such thing: those it does not define are answered the same way, naming the RPC.
    """

    async def refuse(_self: Any, _request: Any, _context: Any) -> None:
        raise NotYetAvailable(sentence)

    rpcs = [name for name in dir(servicer) if not name.startswith("_")]
    return type(f"Later{servicer.__name__}", (servicer,), dict.fromkeys(rpcs, refuse))()
