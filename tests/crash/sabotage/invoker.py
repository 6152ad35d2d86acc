"""The Invoker that hears no hints, and by wish does not poll either, to see that the tests notice."""

import os
import sys
from collections.abc import Callable

from holdfast.invoker import claimer
from holdfast.invoker.__main__ import main
from holdfast.invoker.board import Board
from holdfast.invoker.hints import Hints
from holdfast.invoker.settings import InvokerSettings
from holdfast.kit.db import Database
from holdfast.kit.listener import Listener
from holdfast.kit.process import run_service
from holdfast.kit.settings import load


def _deaf(self: Hints, db: Database, mail: Callable[[], None], inbox: Callable[[], None]) -> Listener:
    del self, mail, inbox
    return db.listen({})


if __name__ == "__main__":
    Hints.listen = _deaf  # type: ignore[method-assign]
    if os.environ["HOLDFAST_TEST_SABOTAGE"] == "no hints, no polling":
        claimer.UNASKED_SECONDS = 3600.0
        Board.wanting = lambda _: []  # type: ignore[method-assign, assignment]
    sys.exit(run_service(main, settings=lambda: load(InvokerSettings, os.environ)))
