"""`holdfast invoke`: start a run, and wait for it or follow it as far as asked."""

from typing import Any

import click

from holdfast.cli import exit_code
from holdfast.cli.follow import Follower, show_end
from holdfast.cli.given import Limits, Pair, Seconds, json_object
from holdfast.cli.output import fields, json_line, plain
from holdfast.cli.target import Target, speaks
from holdfast.client import Budget, Invocation, Run, Shape


@click.command()
@click.argument("intent")
@click.option("-d", "--data", help="The payload: a JSON object, @file, or - for standard input.")
@click.option("--watch", is_flag=True, help="Follow the run's events until it ends.")
@click.option(
    "--wait", type=Seconds(), help="Wait for its end, this long at most; exit code 6 if it goes on."
)
@click.option("--key", default="", help="The idempotency key: the same key never makes two runs.")
@click.option(
    "--shape",
    type=click.Choice(["service", "worker", "workflow", "batch"]),
    help="What it is: a workflow has a month where the budget names no deadline.  [default: service]",
)
@click.option("--budget", type=Limits(), help="As max_steps=10,max_tokens=5000,deadline=30s.")
@click.option("--run-id", default="", help="The run's id, a UUID; made by the server if left out.")
@click.option("--user", default="", help="The user on whose behalf.")
@click.option("--session", default="", help="The conversation it belongs to.")
@click.option("--correlation-id", default="", help="What ties it to other things.")
@click.option("--ordering-key", default="", help="Runs of one key execute one at a time, in order.")
@click.option("--priority", type=click.IntRange(0, 9), default=0, help="0 is ordinary, 9 most urgent.")
@click.option("--label", "labels", type=Pair(), multiple=True, help="A label, key=value; repeatable.")
@click.option(
    "--handoff-deadline",
    "handoff",
    type=Seconds(),
    help="Let it move to the background rather than miss its deadline, with this long from then on.",
)
@click.option("--agent-version", default="", help="Run on this version of the agent's code only.")
@speaks
async def command(
    target: Target,
    *,
    intent: str,
    data: str | None,
    watch: bool,
    wait: float | None,
    **envelope: Any,
) -> int:
    """Start a run for INTENT."""
    if watch and wait is not None:
        raise click.UsageError("--watch follows the run to its end; --wait has no meaning beside it.")
    invocation = invocation_of(intent, data, **envelope)
    async with target.client() as client:
        handle = await client.send(invocation, wait=wait)
        if not watch:
            _show(target, handle.run, reattached=handle.reattached)
            return exit_code.of_run(handle.run) if wait is None else exit_code.of_awaited(handle.run)
        follower = Follower(target.form)
        async with handle.watch() as updates:
            async for update in updates:
                follower.show(update)
        return follower.exit_code


def invocation_of(
    intent: str,
    data: str | None,
    *,
    key: str = "",
    shape: str | None = None,
    budget: Budget | None = None,
    session: str = "",
    handoff: float | None = None,
    labels: tuple[tuple[str, str], ...] = (),
    **same_name: Any,
) -> Invocation:
    """Return the envelope of what was typed."""
    return Invocation(
        intent=intent,
        payload=json_object(data) if data is not None else None,
        idempotency_key=key,
        shape=Shape[(shape or "unspecified").upper()],
        budget=budget,
        session_id=session,
        handoff=None if handoff is None else Budget(deadline_ms=round(handoff * 1000)),
        labels=dict(labels),
        **same_name,
    )


def _show(target: Target, run: Run, *, reattached: bool) -> None:
    if target.form == "json":
        json_line({**plain(run), "reattached": reattached})
        return
    existing = "an earlier call made it" if reattached else ""
    away = f"it goes on in the background: holdfast runs watch {run.run_id}" if run.handed_off else ""
    fields([("run", run.run_id), ("status", run.status), ("", existing), ("", away)])
    if run.outcome is not None:
        show_end(plain(run.outcome))
