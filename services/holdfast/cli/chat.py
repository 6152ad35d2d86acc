"""`holdfast chat`: a conversation at the terminal, one run for each line that is said.

prompt ──line──▶ a run speaks ──ended──▶ prompt ──Ctrl-C | Ctrl-D──▶ over
                    │ ▲
                 Ctrl-C: what to interrupt it with ──text──▶ interrupted
                            └──Ctrl-C again──▶ the run is cancelled
"""

import asyncio
import sys
import uuid

import click

from holdfast.cli import exit_code
from holdfast.cli.chat_screen import JsonLines, Plain, Screen, Terminal
from holdfast.cli.given import Limits, json_object
from holdfast.cli.keyboard import Keyboard
from holdfast.cli.output import note, refusal
from holdfast.cli.target import Target, speaks
from holdfast.client import Budget, Client, Conversation, Invocation, Started, Update, errors

REASON = "cancelled at the terminal"
QUESTION = "interrupt with (empty: go on, Ctrl-C: cancel the run) > "


@click.command()
@click.argument("intent")
@click.option("--field", default="message", show_default=True, help="The payload's field for what is said.")
@click.option("-d", "--data", help="The rest of the payload: a JSON object or @file.")
@click.option("--session", default="", help="Go on with this conversation; a new one is made if left out.")
@click.option("--budget", type=Limits(), help="For each run, as max_steps=10,max_tokens=5000,deadline=30s.")
@click.option("--user", default="", help="The user on whose behalf.")
@click.option("--hide-tools", is_flag=True, help="Do not show tool calls and their results.")
@speaks
async def command(
    target: Target,
    *,
    intent: str,
    field: str,
    data: str | None,
    session: str,
    budget: Budget | None,
    user: str,
    hide_tools: bool,
) -> int:
    """Chat with the agent of INTENT: each line starts a run and shows what it says.

    Ctrl-C while it speaks asks what to interrupt it with, twice cancels the run; at the prompt Ctrl-C or
    Ctrl-D leaves. Lines may be piped in: then the words alone go to standard output, when each run has ended,
    and the exit code is the last run's.
    """
    if data == "-":
        raise click.UsageError(
            "Standard input is what is said; give the rest of the payload inline or as @file."
        )
    person = target.form == "table" and sys.stdin.isatty() and sys.stdout.isatty()
    kind: type[Screen] = Terminal if person else (JsonLines if target.form == "json" else Plain)
    given = json_object(data) if data is not None else {}
    session = session or str(uuid.uuid4())
    async with target.client() as client:
        chat = Chat(client, kind(tools=not hide_tools), Keyboard(interactive=person), person=person)
        if person:
            chat.screen.tell(f"session {session}")
        while (said := chat.keyboard.line()) is not None:
            if said.strip():
                invocation = Invocation(
                    intent, {**given, field: said}, budget=budget, session_id=session, user=user
                )
                await chat.turn(invocation)
            if chat.left:
                break
    return chat.code


class Chat:
    """One run after the other; `code` is the exit code so far, `left` that there shall be no further one."""

    def __init__(self, client: Client, screen: Screen, keyboard: Keyboard, *, person: bool) -> None:
        self.screen = screen
        self.keyboard = keyboard
        self.code = exit_code.OK
        self.left = False
        self._client = client
        self._person = person
        self._cancelled = False
        self._said_something = False

    async def turn(self, invocation: Invocation) -> None:
        """Start a run and show it to its end; a refusal is a sentence, and a person may go on."""
        self.screen.begin()
        self._cancelled = self._said_something = False
        try:
            with self.keyboard.listening():
                async with self._client.converse(invocation, on_lost=self.screen.lost) as conversation:
                    await self._follow(conversation)
        except errors.HoldfastError as error:
            if not self._person:
                raise
            self.screen.tell(refusal(error))
            return
        if not self._person:
            self.code = exit_code.INTERRUPTED if self._cancelled else self.screen.answer.exit_code

    async def _follow(self, conversation: Conversation) -> None:
        while not self.left and (update := await self._next(conversation)) is not None:
            self.screen.show(update)
            if self.screen.answer.handed_off:
                return

    async def _next(self, conversation: Conversation) -> Started | Update | None:
        """Return the next update, hearing Ctrl-C meanwhile; None after the last, or when it was left."""
        reading = asyncio.ensure_future(anext(conversation, None))
        pressed = asyncio.ensure_future(self.keyboard.pressed.wait())
        try:
            while True:
                await asyncio.wait({reading, pressed}, return_when=asyncio.FIRST_COMPLETED)
                if pressed.done():
                    await self._pressed(conversation)
                    if self.left:
                        return None
                    pressed = asyncio.ensure_future(self.keyboard.pressed.wait())
                if not reading.done():
                    continue
                try:
                    return reading.result()
                except (errors.NotYetAvailable, errors.RunEnded, errors.StreamProtocol) as error:
                    if not self._said_something:
                        raise
                    # What we said was refused, and the stream with it; the run is followed on.
                    self._said_something = False
                    self.screen.tell(refusal(error))
                    reading = asyncio.ensure_future(anext(conversation, None))
        finally:
            for task in (reading, pressed):
                task.cancel()
            await asyncio.gather(reading, pressed, return_exceptions=True)

    async def _pressed(self, conversation: Conversation) -> None:
        self.keyboard.pressed.clear()
        if conversation.run is None or self._cancelled:  # nothing to speak to, or it was told enough
            self.left = True
            self.code = exit_code.INTERRUPTED
            return
        if not self._person:
            note("cancelling the run; Ctrl-C again leaves without waiting for its end")
            await self._cancel(conversation)
            return
        if isinstance(self.screen, Terminal):
            self.screen.end_line()
        text = self.keyboard.answer(QUESTION)
        if text is None:
            self.screen.tell("cancelling the run; Ctrl-C again leaves without waiting for its end")
            await self._cancel(conversation)
        elif text.strip():
            try:
                await conversation.interrupt(text)
                self._said_something = True
                self.screen.tell("said to the agent")
            except errors.HoldfastError as error:
                self.screen.tell(f"it was not heard: {refusal(error)}")
        else:
            self.screen.tell("going on")

    async def _cancel(self, conversation: Conversation) -> None:
        self._cancelled = True
        await conversation.cancel(REASON)
