"""Holds runs against the code that is here now, some side by side; no step of theirs is executed.

read through the client ──(its records are no longer retained)──▶ not judged
                           └──(replayed in this process)──▶ a verdict
"""

import asyncio
import contextlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.agent import App
from holdfast.agent.app_import import NoSuchApp, import_apps
from holdfast.agent.replay import Envelope, Replayed, replay
from holdfast.client import Client, HoldfastError, Run, RunStatus
from holdfast.client.errors import RunNotFound

AT_ONCE: Final = 8
"""How many runs are read and replayed side by side."""
NOT_JUDGED: Final = "NOT_JUDGED"


@dataclass(frozen=True, slots=True)
class Judged:
    """What the code does with one run; `fine` is None where nothing is left to judge it by."""

    run_id: str
    intent: str
    status: str
    agent_version: str
    verdict: str
    fine: bool | None
    step: str = ""
    message: str = ""
    leftover: tuple[str, ...] = ()


@contextlib.contextmanager
def agents_of(names: Iterable[str]) -> Iterator[Mapping[str, App]]:
    """Import apps and yield them by intent. What agents print until the end goes to standard error.

    Raises ValueError in one sentence for what is no app, and for modules that fail: where, a traceback says.
    """
    with contextlib.redirect_stdout(sys.stderr):
        apps: dict[str, App] = {}
        for app in _imported(names):
            for intent in app.agents:
                if intent in apps:
                    raise ValueError(f"Two of the apps have an agent for the intent {intent}.")
                apps[intent] = app
        if not apps:
            raise ValueError("None of the apps has an agent: there is nothing to replay with.")
        yield apps


def _imported(names: Iterable[str]) -> list[App]:
    try:
        return import_apps(names)
    except NoSuchApp:
        raise
    except Exception as error:
        traceback.print_exc()
        raise ValueError("The agents cannot be imported; the traceback says where.") from error


async def judge_all(
    client: Client,
    apps: Mapping[str, App],
    runs: Sequence[Run],
    *,
    patience: float,
    judged: Callable[[int], None],
) -> list[Judged]:
    """Judge runs, whose intents the apps serve, and return what was found in their order.

    `judged` is told how many are done, one by one. The apps are closed at the end. Raises the first
    `HoldfastError`; the others are given up then.
    """
    room = asyncio.Semaphore(AT_ONCE)
    done = 0

    async def one(run: Run) -> Judged:
        nonlocal done
        async with room:
            found = await _judge(client, apps[run.intent], run, patience)
        done += 1
        judged(done)
        return found

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(run)) for run in runs]
    except ExceptionGroup as group:
        raise _first_of(group) from None
    finally:
        for app in set(apps.values()):
            await app.close()
    return [task.result() for task in tasks]


def _first_of(group: ExceptionGroup[Exception]) -> Exception:
    """Return the refusal that ended the group; what is none is a fault of ours and stays whole."""
    refused = group.subgroup(HoldfastError)
    return group if refused is None else refused.exceptions[0]


async def _judge(client: Client, app: App, listed: Run, patience: float) -> Judged:
    """Read one run whole and replay it. What is recorded while it is read is in flight, and not missed."""
    try:
        run = await client.get_run(listed.run_id)
        past = await client.past(listed.run_id)
    except RunNotFound:
        return _not_judged(listed, "it is no longer there")
    if run.usage.steps and not past.records:
        return _not_judged(run, "its records are no longer retained")
    replayed = await replay(
        app,
        run.intent,
        run.payload or {},
        past.records,
        emitted=past.emitted,
        envelope=_envelope(run),
        status=run.status if run.is_ended else RunStatus.COMPENSATED if run.compensating else 0,
        result=run.outcome.result if run.outcome else None,
        patience=patience,
    )
    return Judged(
        run_id=run.run_id,
        intent=run.intent,
        status=run.status.name,
        agent_version=run.agent_version,
        verdict=replayed.verdict.name,
        fine=replayed.verdict.is_fine,
        step=replayed.step,
        message=_message(run, replayed),
        leftover=replayed.leftover,
    )


def _envelope(run: Run) -> Envelope:
    assert run.create_time is not None  # every run was accepted
    return Envelope(run.run_id, run.tenant, run.user, run.correlation_id, run.labels, run.create_time)


def _message(run: Run, replayed: Replayed) -> str:
    """Say what was found, and what may be at fault instead of the code."""
    if replayed.verdict.is_fine or not run.session_id:
        return replayed.message
    return f"{replayed.message}; what its session held is not recorded: the code has met an empty one"


def _not_judged(run: Run, why: str) -> Judged:
    return Judged(run.run_id, run.intent, run.status.name, run.agent_version, NOT_JUDGED, None, message=why)
