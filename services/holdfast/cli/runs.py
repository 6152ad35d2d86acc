"""`holdfast runs`: what ran, what runs, and what shall happen to it."""

from typing import Any

import click

from holdfast.cli import exit_code, travel
from holdfast.cli.acting import filters, one_or_all, which_of
from holdfast.cli.follow import Follower, show_end
from holdfast.cli.given import Limits, Seconds, json_value
from holdfast.cli.output import fields, json_line, plain, table
from holdfast.cli.target import Target, speaks
from holdfast.cli.timeline import timeline
from holdfast.client import Budget, Degradation, Run


@click.group()
def command() -> None:
    """List, read, watch, signal, interrupt, cancel, pause, resume, retry and fork runs."""


command.add_command(travel.checkpoints)
command.add_command(travel.fork)
command.add_command(timeline)


@command.command("list")
@filters
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most this many.")
@speaks
async def list_runs(target: Target, *, limit: int, **which: Any) -> None:
    """List runs, newest first."""
    await show_list(target, limit, **which_of(**which))


async def show_list(target: Target, limit: int, **filters: Any) -> None:
    """Show the runs that match, newest first, at most `limit`."""
    shown: list[Run] = []
    async with target.client() as client:
        async for run in client.list_runs(page_size=min(limit, 200), **filters):
            if target.form == "json":
                json_line(run)
            shown.append(run)
            if len(shown) == limit:
                break
    if target.form == "table":
        rows = [
            (
                run.run_id,
                run.intent,
                run.status,
                run.create_time,
                f"{run.usage.elapsed_ms} ms",
                run.attempt,
                run.usage.steps,
            )
            for run in shown
        ]
        table(["RUN", "INTENT", "STATUS", "ACCEPTED", "TIME", "ATTEMPT", "STEPS"], rows, empty="No runs.")


@command.command()
@click.argument("run_id")
@speaks
async def get(target: Target, run_id: str) -> None:
    """Read a run."""
    async with target.client() as client:
        _show(target, await client.get_run(run_id))


@command.command()
@click.argument("run_id")
@click.option("--after", type=click.IntRange(0), default=0, help="Only events after this sequence.")
@speaks
async def watch(target: Target, run_id: str, after: int) -> int:
    """Follow a run's events until it ends; the exit code says how."""
    follower = Follower(target.form)
    async with target.client() as client, client.watch(run_id, after) as updates:
        async for update in updates:
            follower.show(update)
        if not follower.status:  # the cursor was at its end
            follower.status = (await client.get_run(run_id)).status
    return follower.exit_code


@command.command()
@click.option("--reason", default="", help="Why, for the record.")
@click.option("--wait", type=Seconds(), help="Of one run: wait until it has stopped, this long at most.")
@speaks
@one_or_all("cancel")
async def cancel(target: Target, run_id: str, reason: str, wait: float | None) -> int:
    """Ask a run to stop, or all that match."""
    async with target.client() as client:
        run = await client.cancel(run_id, reason)
        if wait is not None and not run.is_ended:
            try:
                run = await client.await_run(run_id, patience=wait)
            except TimeoutError:
                run = await client.get_run(run_id)
    _show(target, run)
    return exit_code.OK if wait is None or run.is_ended else exit_code.RUNNING


@command.command()
@click.option("--reason", default="", help="Why, for the record.")
@speaks
@one_or_all("pause")
async def pause(target: Target, run_id: str, reason: str) -> None:
    """Hold a run, or all that match: no runner executes them until they are resumed."""
    async with target.client() as client:
        _show(target, await client.pause(run_id, reason))


@command.command()
@speaks
@one_or_all("resume")
async def resume(target: Target, run_id: str) -> None:
    """Let a paused run go on, or all that match."""
    async with target.client() as client:
        _show(target, await client.resume(run_id))


@command.command()
@click.argument("run_id")
@click.argument("key")
@click.option("-d", "--data", default="null", help="What is said: JSON, @file, or - for standard input.")
@click.option("--id", "signal_id", default="", help="The signal's id: the same id sends nothing twice.")
@speaks
async def signal(target: Target, run_id: str, key: str, data: str, signal_id: str) -> None:
    """Put a message in a run's mailbox under KEY."""
    payload = json_value(data)
    async with target.client() as client:
        _sent(target, run_id, await client.signal(run_id, key, payload, signal_id=signal_id))


@command.command()
@click.argument("run_id")
@click.option("-d", "--data", default="null", help="What is said: JSON, @file, or - for standard input.")
@click.option("--id", "signal_id", default="", help="The signal's id: the same id sends nothing twice.")
@speaks
async def interrupt(target: Target, run_id: str, data: str, signal_id: str) -> None:
    """Hand urgent input to a run: it cancels a step in flight that is interruptible."""
    payload = json_value(data)
    async with target.client() as client:
        _sent(target, run_id, await client.interrupt(run_id, payload, signal_id=signal_id))


@command.command()
@click.option("--budget", type=Limits(), help="Of one run: the budget from here on.")
@speaks
@one_or_all("retry")
async def retry(target: Target, run_id: str, budget: Budget | None) -> None:
    """Start an ended run again from its recorded steps, or all that match."""
    async with target.client() as client:
        _show(target, await client.retry(run_id, budget=budget))


@command.command("wait")
@click.argument("run_id")
@click.option(
    "--for", "patience", type=Seconds(), default="30s", show_default=True, help="At most this long."
)
@speaks
async def wait_for(target: Target, run_id: str, patience: float) -> int:
    """Wait until a run has ended; the exit code says how, and is 6 if it has not."""
    async with target.client() as client:
        try:
            run = await client.await_run(run_id, patience=patience)
        except TimeoutError:
            run = await client.get_run(run_id)
    _show(target, run)
    return exit_code.of_awaited(run)


def _remark(run: Run) -> str:
    if run.paused:
        return f" (paused: {run.pause_reason})" if run.pause_reason else " (paused)"
    if run.cancel_requested:
        return " (asked to cancel)"
    return " (in the background)" if run.handed_off and not run.is_ended else ""


def _sent(target: Target, run_id: str, signal_id: str) -> None:
    if target.form == "json":
        json_line({"run_id": run_id, "signal_id": signal_id})
    else:
        fields([("run", run_id), ("signal", signal_id)])


def _show(target: Target, run: Run) -> None:
    if target.form == "json":
        json_line(run)
        return
    used, most = run.usage, run.budget
    fields(
        [
            ("run", run.run_id),
            ("intent", run.intent),
            ("status", f"{run.status.name}{_remark(run)}"),
            ("user", run.user),
            ("key", run.idempotency_key),
            ("attempt", run.attempt),
            ("accepted", run.create_time),
            ("started", run.start_time),
            ("ended", run.end_time),
            ("deadline", run.deadline_time),
            ("time", f"{used.elapsed_ms} of {most.deadline_ms} ms"),
            ("steps", f"{used.steps} of {most.max_steps}{_lent(run.lent.steps)}"),
            ("tools", f"{used.tools} of {most.max_tools}{_lent(run.lent.tools)}"),
            ("tokens", f"{used.tokens} of {most.max_tokens}{_lent(run.lent.tokens)}"),
            ("context", f"{used.context} of {most.max_context}"),
            ("version", run.agent_version),
            ("forked from", run.forked_from and f"{run.forked_from.run_id} at {run.forked_from.position}"),
            ("parent", run.parent_run_id),
            ("session", run.session_id),
            ("ordering key", run.ordering_key),
            ("labels", dict(run.labels)),
            ("payload", run.payload),
            ("held back", run.held_back),
            ("waits for", run.waiting_for and f"{run.waiting_for}: none is connected"),
            *(("degraded", _rung(each)) for each in run.degradations),
            ("undone for", run.compensating and run.compensating.message),
            ("last failure", run.last_failure.message if run.last_failure else None),
        ]
    )
    if run.outcome is not None:
        show_end(plain(run.outcome))


def _rung(taken: Degradation) -> str:
    return f"{taken.rung}, at {taken.used} of {taken.limit} {taken.dimension.name.lower()}"


def _lent(amount: int) -> str:
    return f", {amount} lent to children" if amount else ""
