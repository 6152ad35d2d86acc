"""Hypothesis drives a ledger of its own through random steps."""

import asyncio
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from holdfast.embedded import EmbeddedPostgres
from holdfast.kit.db import Database
from holdfast.ledger import SESSION_SETTINGS
from tests.support.database import cloned_database


def drive(
    machine: type[RuleBasedStateMachine],
    server: EmbeddedPostgres,
    *,
    examples: int,
    steps: int,
    pool_size: int = 2,
    **more: Any,
) -> None:
    """Run a machine, which gets an event loop as `loop` and a migrated database as `db`.

    `more` are settings of Hypothesis.
    """
    with asyncio.Runner() as loop:
        clone = cloned_database(server)
        url = loop.run(clone.__aenter__())
        connecting = Database.connect(
            url, application_name="test", server_settings=SESSION_SETTINGS, pool_size=pool_size
        )
        db = loop.run(connecting)
        try:
            run_state_machine_as_test(
                type(machine.__name__, (machine,), {"loop": loop, "db": db}),
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=steps,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    **more,
                ),
            )
        finally:
            loop.run(db.close())
            loop.run(clone.__aexit__(None, None, None))
