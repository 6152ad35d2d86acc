"""One run: how it stands, what it has spent, when what happened, what it says now, and what can be done."""

import asyncio
import json
import shlex
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from holdfast.client import (
    Checkpoint,
    Client,
    Conversation,
    HoldfastError,
    Run,
    RunStatus,
    Started,
    Watch,
    errors,
)
from holdfast.console.clients import client_of
from holdfast.console.guard import form_of
from holdfast.console.live import KEEPALIVE_S, event, pause, stream
from holdfast.console.page import done, failed, fragment, page
from holdfast.console.session import Session, session_of
from holdfast.console.transcript import Transcript

GATHER_S: Final = 0.2
"""What comes within this goes to the page at once."""

_MOST_STEPS: Final = 500


@dataclass(frozen=True, slots=True)
class Limit:
    """One of the five budgets: what is spent of it, as its bar shows it."""

    name: str
    used: int
    most: int
    unit: str = ""

    @property
    def share(self) -> float:
        """The part that is spent."""
        return self.used / self.most if self.most else 0.0

    @property
    def tone(self) -> str:
        """How the bar looks."""
        return "bad" if self.share >= 0.95 else "warn" if self.share >= 0.75 else "good"  # noqa: PLR2004


def limits(run: Run) -> list[Limit]:
    """Return the five budgets of a run."""
    used, most = run.usage, run.budget
    return [
        Limit("time", used.elapsed_ms, most.deadline_ms, "ms"),
        Limit("steps", used.steps, most.max_steps),
        Limit("tools", used.tools, most.max_tools),
        Limit("tokens", used.tokens, most.max_tokens),
        Limit("context", used.context, most.max_context),
    ]


def possible(run: Run, session: Session) -> dict[str, bool]:
    """Return what can be done with a run as it stands, by somebody with these roles."""
    going = not run.is_ended
    can = {
        "cancel": (going and not run.cancel_requested, "InvokerService/CancelRun"),
        "pause": (going and not run.paused, "InvokerService/PauseRun"),
        "resume": (run.paused and going, "InvokerService/ResumeRun"),
        "retry": (run.is_ended and run.status is not RunStatus.SUCCEEDED, "InvokerService/RetryRun"),
        "say": (going, "InvokerService/SignalRun"),
        "fork": (True, "CheckpointService/ForkRun"),
    }
    return {name: now and session.may(call) for name, (now, call) in can.items()}


async def _steps(client: Client, run_id: str) -> list[Checkpoint]:
    found: list[Checkpoint] = []
    async for checkpoint in client.list_checkpoints(run_id):
        found.append(checkpoint)
        if len(found) >= _MOST_STEPS:
            break
    return found


async def show(request: Request) -> Response:
    """Show a run."""
    client, run_id = client_of(request), request.path_params["run_id"]
    run, steps = await asyncio.gather(client.get_run(run_id), _steps(client, run_id))
    return page(
        request,
        "run.html",
        **_parts(run, Transcript(), session_of(request)),
        steps=steps,
        grpcurl=_line(request, run),
        talk=bool(_talking(request)),
    )


def _line(request: Request, run: Run) -> str:
    """Return what shows the run from a terminal; a token is not in it, but the variable that holds it."""
    settings, session = request.app.state.settings, session_of(request)
    invoker = settings.invoker_address.partition(",")[0]
    words = ["-d", shlex.quote(json.dumps({"run_id": run.run_id})), shlex.quote(invoker)]
    words = ["-H", shlex.quote(f"holdfast-tenant: {session.tenant}"), *words]
    if session.credential:
        words = ["-H", '"authorization: Bearer $HOLDFAST_TOKEN"', *words]
    way = "-plaintext" if settings.tls is None else f"-cacert {shlex.quote(str(settings.tls_ca_file))}"
    return " ".join(["grpcurl", way, *words, "holdfast.v1.InvokerService/GetRun"])


def _talking(request: Request) -> str:
    return request.query_params.get("talk", "")


def _parts(run: Run, transcript: Transcript, session: Session) -> dict[str, Any]:
    bars = transcript.bars(datetime.now(UTC))
    return {"run": run, "limits": limits(run), "possible": possible(run, session), "bars": bars}


async def live(request: Request) -> Response:
    """Stream a run to its page: all of it first, then what is new, until it has ended."""
    return stream(request, _Following(request).events())


class _Following:
    """One page that follows one run."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._client = client_of(request)
        self._session = session_of(request)
        self._run_id: str = request.path_params["run_id"]
        self._transcript = Transcript()
        self._changed = asyncio.Event()
        self._trouble = ""
        self._steps = -1

    async def events(self) -> AsyncGenerator[str]:
        reading = asyncio.create_task(self._read())
        try:
            async for each in self._told(reading):
                yield each
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, errors.Unauthenticated):
                await reading

    async def _told(self, reading: "asyncio.Task[None]") -> AsyncIterator[str]:
        shown, rewound = 0, -1
        while True:
            over = reading.done()
            self._changed.clear()
            transcript = self._transcript
            last = transcript.last  # more may come while this is written
            if rewound != transcript.rewound:
                shown, rewound = 0, transcript.rewound
                yield event("log", "")
                yield event("words", "")
            try:
                async for each in self._new(shown, last):
                    yield each
            except errors.Unauthenticated:
                raise
            except HoldfastError as error:
                self._trouble = error.message
            yield event(
                "trouble", self._fragment("trouble.html", text=self._trouble) if self._trouble else ""
            )
            shown = last
            if over:
                await reading  # raises what has ended it, if the page cannot go on
                yield event("over", "")
                return
            if not (await pause(self._request, GATHER_S) and await self._wait()):
                return

    async def _wait(self) -> bool:
        return await pause(self._request, KEEPALIVE_S, self._changed)

    async def _new(self, shown: int, last: int) -> AsyncIterator[str]:
        transcript = self._transcript
        run = await self._client.get_run(self._run_id)
        can = possible(run, self._session)
        yield event("state", self._fragment("run_state.html", **_parts(run, transcript, self._session)))
        yield event("actions", self._fragment("run_actions.html", run=run, possible=can))
        yield event("timeline", self._fragment("run_timeline.html", bars=transcript.bars(datetime.now(UTC))))
        if lines := transcript.log(shown, last):
            yield event("line", self._fragment("run_log.html", lines=lines))
        if words := transcript.words(shown, last):
            yield event("word", self._fragment("run_words.html", words=words))
        finished = sum(each.kind == "step_finished" for each in transcript.events)
        if finished != self._steps:
            self._steps = finished
            steps = await _steps(self._client, self._run_id)
            yield event("steps", self._fragment("run_steps.html", run=run, steps=steps, possible=can))

    def _fragment(self, template: str, **values: Any) -> str:
        return fragment(self._request, template, **values)

    async def _read(self) -> None:
        """Read the run's stream; on the page where people talk to it, a conversation."""
        try:
            async with self._opened() as updates:
                async for update in updates:
                    if not isinstance(update, Started):
                        self._transcript.take(update)
                    self._changed.set()
        except errors.Unauthenticated:
            raise
        except HoldfastError as error:
            self._trouble = error.message
        finally:
            self._changed.set()

    def _opened(self) -> Conversation | Watch:
        if _talking(self._request) and self._session.may("InvokerService/Converse"):
            return self._client.attach(self._run_id)
        return self._client.watch(self._run_id)


_DONE: Final = {
    "cancel": "The run was asked to stop.",
    "pause": "The run is held until somebody resumes it.",
    "resume": "The run goes on.",
    "retry": "The run goes on from its recorded steps.",
    "fork": "This is the new run.",
    "interrupt": "The run was interrupted.",
    "say": "Sent.",
}


async def act(request: Request) -> Response:
    """Do one thing with a run."""
    form, run_id, action = form_of(request), request.path_params["run_id"], request.path_params["action"]
    if action not in _DONE:
        raise HTTPException(404)
    here = f"/runs/{run_id}"
    try:
        made = await _act(client_of(request), run_id, action, form, session_of(request).user)
    except HoldfastError as error:
        return failed(request, error, form, here)
    return done(request, _DONE[action], {} if made else form, f"/runs/{made}" if made else here)


async def _act(client: Client, run_id: str, action: str, form: Mapping[str, str], user: str) -> str:
    """Do it; returns the id of the run that this has made, if it has made one."""
    text, reason = form.get("text", ""), form.get("reason") or f"by {user} in the console"
    if action == "cancel":
        await client.cancel(run_id, reason)
    elif action == "pause":
        await client.pause(run_id, reason)
    elif action == "resume":
        await client.resume(run_id)
    elif action == "retry":
        await client.retry(run_id)
    elif action == "interrupt":
        await client.interrupt(run_id, spoken(text))
    elif action == "say":
        await client.signal(run_id, form.get("key") or "input", spoken(text))
    else:
        position = form.get("position", "")
        return (await client.fork(run_id, int(position) if position.isdecimal() else 0)).run_id
    return ""


def spoken(text: str) -> Any:
    """Return what somebody typed: JSON if it is an object, a list or a quoted string, otherwise the text."""
    if text[:1] in {"{", "[", '"'}:
        with suppress(ValueError):
            return json.loads(text)
    return text
