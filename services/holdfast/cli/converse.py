"""`holdfast converse`: a run speaks on the terminal; Ctrl-C cancels it, a second one leaves."""

import asyncio
import signal
from typing import Any

import click

from holdfast.cli.exit_code import INTERRUPTED
from holdfast.cli.follow import Follower
from holdfast.cli.given import Limits, Seconds
from holdfast.cli.invoke import invocation_of
from holdfast.cli.output import note
from holdfast.cli.target import Target, speaks
from holdfast.client import Conversation, OnDisconnect


@click.command()
@click.argument("intent")
@click.option("-d", "--data", help="The payload: a JSON object, @file, or - for standard input.")
@click.option("--key", default="", help="The idempotency key: the same key joins the same run.")
@click.option("--budget", type=Limits(), help="As max_steps=10,max_tokens=5000,deadline=30s.")
@click.option(
    "--handoff-deadline",
    "handoff",
    type=Seconds(),
    help="Let it move to the background rather than miss its deadline, with this long from then on.",
)
@click.option("--session", default="", help="The conversation it belongs to.")
@click.option("--user", default="", help="The user on whose behalf.")
@click.option("--cancel-if-left", is_flag=True, help="Cancel the run if this command dies.")
@speaks
async def command(
    target: Target,
    *,
    intent: str,
    data: str | None,
    cancel_if_left: bool,
    **envelope: Any,
) -> int:
    """Start a run for INTENT and follow what it says; Ctrl-C cancels the run."""
    invocation = invocation_of(intent, data, **envelope)
    leaving = OnDisconnect.CANCEL if cancel_if_left else OnDisconnect.CONTINUE
    follower = Follower(target.form)
    async with (
        target.client() as client,
        client.converse(invocation, on_disconnect=leaving) as conversation,
    ):
        interruptions = _Interruptions(conversation)
        async for update in conversation:
            follower.show(update)
            interruptions.may_cancel()
    return INTERRUPTED if interruptions.count else follower.exit_code


class _Interruptions:
    """Turns the first Ctrl-C into a cancel of the run, and the second into the end of this command."""

    def __init__(self, conversation: Conversation) -> None:
        self.count = 0
        self._conversation = conversation
        self._cancelling: asyncio.Task[None] | None = None
        self._main = asyncio.current_task()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupted)

    def may_cancel(self) -> None:
        """Cancel the run if that was asked for before there was one."""
        if self.count and self._cancelling is None and self._conversation.run is not None:
            self._cancelling = asyncio.create_task(self._conversation.cancel("interrupted at the terminal"))

    def _interrupted(self) -> None:
        self.count += 1
        if self.count > 1 and self._main is not None:
            self._main.cancel()
            return
        note("\ncancelling the run; Ctrl-C again leaves without waiting for its end")
        self.may_cancel()
