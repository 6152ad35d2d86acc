"""The Checkpoint service with a promise taken out, to see that the tests notice."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import asyncpg

from holdfast.checkpoint.__main__ import main
from holdfast.checkpoint.settings import CheckpointSettings
from holdfast.kit import crash_point
from holdfast.kit.process import run_service
from holdfast.kit.settings import load
from holdfast.ledger import SESSION_SETTINGS, commit, commit_move, commit_sql, outbox

_stage = outbox.stage


def _no_fence() -> None:
    """Whoever sends a commit may write it."""
    commit._PROGRESS = commit_sql.progress(fence="true")
    commit_move._MOVE = commit_sql.move(fence="true")
    commit_move._FINISH = commit_sql.finish(fence="true")


async def _stage_apart(connection: Any, effects: Sequence[outbox.StagedEffect]) -> None:
    """Commit effects in a transaction of their own, before the one of their step."""
    url = os.environ["HOLDFAST_DATABASE_URL"]
    del connection
    other = await asyncpg.connect(url, server_settings=dict(SESSION_SETTINGS))
    try:
        async with other.transaction():
            await _stage(other, effects)
    finally:
        await other.close()
    crash_point.reach("sabotage.staged")


def _effects_apart() -> None:
    outbox.stage = _stage_apart


if __name__ == "__main__":
    {"no fence": _no_fence, "effects apart": _effects_apart}[os.environ["HOLDFAST_TEST_SABOTAGE"]]()
    sys.exit(run_service(main, settings=lambda: load(CheckpointSettings, os.environ)))
