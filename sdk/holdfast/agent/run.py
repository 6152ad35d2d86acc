"""What an agent holds of its run: all it does through it is recorded, told, charged, never done twice."""

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ParamSpec, TypeVar

from holdfast.agent.approval import Decision, decided, policy_of
from holdfast.agent.budget import Budget
from holdfast.agent.child import Child
from holdfast.agent.codec import LARGEST, canonical, plain
from holdfast.agent.degradation import Degradation
from holdfast.agent.engine.branch import branch, in_branches
from holdfast.agent.engine.call import Call
from holdfast.agent.engine.gate import Door
from holdfast.agent.engine.key import LONGEST_KEY, stable_key
from holdfast.agent.engine.mailbox import Mailbox
from holdfast.agent.engine.model_call import ModelCall, Wishes
from holdfast.agent.engine.nursery import Nursery, Wanted
from holdfast.agent.engine.restart import Restarts
from holdfast.agent.engine.scope import Frame, Scope
from holdfast.agent.engine.stepper import Stepper
from holdfast.agent.engine.transcript import Transcript
from holdfast.agent.engine.wait import receive_call, received, sleep_call
from holdfast.agent.engine.waits import Waits
from holdfast.agent.model import Message, ModelReply, ToolSpec, tool_spec
from holdfast.agent.model_ladder import Models
from holdfast.agent.model_trim import Trim
from holdfast.agent.session import Session
from holdfast.agent.step import IDEMPOTENCY_KEY, Policy, Step, as_step, checked_name
from holdfast.agent.tool_loop import Talk, converse
from holdfast.agent.undo import Undos
from holdfast.agent.wire.draft import FUNCTION, TOOL, make_effect
from holdfast.agent.wire.invocation import Invocation

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

EFFECTS = uuid.UUID("6e9c1b2a-8f7d-4c55-9d0e-5d3f4a7b1c90")
"""The namespace of effect ids: the same effect of the same run has the same id in every replay."""
MODEL_POLICY = Policy(attempts=5, repeatable=True)
LONGEST_SUMMARY = 400
SUMMARISE = (
    "Summarise this part of a conversation in a few sentences. Keep names, numbers and what was decided."
)


class Run:
    """One run, as its agent sees it. Only to be used from the agent's own tasks."""

    def __init__(
        self,
        invocation: Invocation,
        stepper: Stepper,
        transcript: Transcript,
        budget: Budget,
        models: Callable[[], Models],
        *,
        session: Session,
        degradation: Degradation,
        trim: Trim,
        mailbox: Mailbox,
        waits: Waits,
        door: Door,
        nursery: Nursery,
        undos: Undos,
        restarts: Restarts,
    ) -> None:
        self._invocation = invocation
        self._stepper = stepper
        self._transcript = transcript
        self._budget = budget
        self._models = models
        self._degradation = degradation
        self._trim = trim
        self._session = session
        self._mailbox = mailbox
        self._waits = waits
        self._door = door
        self._nursery = nursery
        self._undos = undos
        self._restarts = restarts

    def __repr__(self) -> str:
        return f"Run({self.id}, attempt={self.attempt})"

    @property
    def id(self) -> str:
        """The run's id."""
        return self._invocation.run_id

    @property
    def attempt(self) -> int:
        """How often the run was leased, this time included: differs in a replay."""
        return self._invocation.attempt

    @property
    def intent(self) -> str:
        """What the agent was asked to do."""
        return self._invocation.intent

    @property
    def tenant(self) -> str:
        """The tenant on whose behalf it runs."""
        return self._invocation.tenant

    @property
    def user(self) -> str:
        """The user on whose behalf it runs; may be empty."""
        return self._invocation.user

    @property
    def labels(self) -> Mapping[str, str]:
        """The caller's labels."""
        return self._invocation.labels

    @property
    def correlation_id(self) -> str:
        """What ties the run to others; may be empty."""
        return self._invocation.correlation_id

    @property
    def create_time(self) -> datetime:
        """When the run was accepted: the same in every replay, unlike a clock."""
        return self._invocation.create_time

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What was said that had the agent begin anew, the oldest first; see `on_input="restart"`."""
        return self._restarts.inputs

    @property
    def budget(self) -> Budget:
        """What is left of each limit, now."""
        return self._budget

    @property
    def session(self) -> Any:
        """What the runs of the session hand on: read it, change it, or assign another in its place.

        It is as the run before left it, in a replay too, and saved with this run's end if that is SUCCEEDED
        or PARTIAL. A run without a session has one that nobody keeps. Raises RuntimeError inside of a step,
        which a replay does not execute.
        """
        self._outside_of_steps()
        return self._session.state

    @session.setter
    def session(self, state: Any) -> None:
        self._outside_of_steps()
        self._session.state = state

    async def expect(self, seconds: float) -> bool:
        """Say that what comes next takes so long; return whether the run moved to the background for it.

        It moves if it would miss its deadline otherwise and its caller allows it, once in its life: those who
        talk with it are told and let go, and it goes on under the budget allowed for that, its deadline
        counted from now. The move is durable when this returns. Where it is not allowed nothing happens. The
        answer is the same in a replay. Raises RuntimeError inside of a step.
        """
        return await self._stepper.expect(seconds)

    def patched(self, patch: str) -> bool:
        """Say whether to go the new way, where the code was changed under runs in flight.

        True for a run that comes here first with the patch, false in the replay of one that went on from here
        before there was the patch. The first answer counts for this branch of the agent, in every replay. A
        branch whose starter went on without it before a crash may hear false. Raises ValueError for what
        cannot be a name, RuntimeError inside of a step.
        """
        return self._stepper.patched(checked_name(patch))

    def step(
        self, fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]:
        """Execute a step, or return its recorded outcome; its key is taken now, not when it is awaited.

        Raises `StepFailed` when it has failed for good. Unless the step is `repeatable`, its record is
        durable when this returns. If the process dies in the middle of a step, the step is executed again:
        what it does to the world it does under its `idempotency_key`, which is the same then.
        """
        step = as_step(fn)
        return self._perform(step, FUNCTION, args, kwargs, None)

    def tool(self, fn: Callable[..., Coroutine[Any, Any, R]], /, **arguments: Any) -> Coroutine[Any, Any, R]:
        """Call a tool: a step that is counted and told as a tool call."""
        step = as_step(fn)
        transcript = self._transcript

        def told(frame: Frame, encoded: bytes) -> None:
            transcript.tool_returned(frame, step.name, encoded)

        return self._perform(step, TOOL, (), arguments, told)

    def model(
        self,
        messages: str | Sequence[Message],
        *,
        tools: Iterable[ToolSpec | Callable[..., Coroutine[Any, Any, Any]]] = (),
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        options: Mapping[str, Any] | None = None,
        stream: bool = True,
        trim: Trim | None = None,
        policy: Policy = MODEL_POLICY,
        name: str = "model",
    ) -> Coroutine[Any, Any, ModelReply]:
        """Ask a model, as a step; what it writes is told as it arrives, unless `stream` is false.

        Asked is the model of that name in the app's ladder, without one the first, or the one that the
        degradation names; when it cannot answer, the next is. What the call reads and may write
        (`max_tokens`, else 4096) is set aside before, and what it has cost is charged after; it waits for
        calls in flight that it does not fit beside, and the reply is cut short where the budget of tokens
        ends. Messages beyond `max_context` are treated as `trim` says, by default the agent's: `error` ends
        the run, `oldest_first` leaves the oldest out, `summarise` has them summarised by a step of its own;
        the latter two heed the model's window, too.
        Cancelling closes the connection: the model stops.
        """
        asked = [Message("user", messages)] if isinstance(messages, str) else list(messages)
        wishes = Wishes(
            tools=[each if isinstance(each, ToolSpec) else _spec(each) for each in tools],
            model=model,
            max_tokens=max_tokens,
            temperature=temperature,
            options=options,
            stream=stream,
            trim=trim or self._trim,
        )
        call = self._model_call(asked, wishes).call(checked_name(name), policy)
        return self._stepper.perform(self._stepper.scope().key(name), call)

    def converse_with_tools(
        self,
        messages: str | Sequence[Message],
        tools: Iterable[Callable[..., Coroutine[Any, Any, Any]]],
        *,
        max_rounds: int | None = None,
        **wishes: Any,
    ) -> Coroutine[Any, Any, Talk]:
        """Let a model call tools until it has its answer; `wishes` are those of `model`.

        Each round is one model call, and the tools it wants are called side by side, each a step. A call that
        is none, a tool that is none, a tool that fails for good: the model reads what was wrong. A model that
        never stops is stopped by the budget, and the run ends PARTIAL, or by `max_rounds`, and `finished` of
        what is returned is False.
        """
        asked = [Message("user", messages)] if isinstance(messages, str) else list(messages)
        offered = {_spec(tool).name: tool for tool in tools}
        return converse(
            asked,
            offered,
            ask=lambda talk: self.model(talk, tools=offered.values(), **wishes),
            call=self.tool,
            side_by_side=self.map,
            max_rounds=max_rounds,
        )

    def _model_call(self, asked: Sequence[Message], wishes: Wishes) -> ModelCall:
        return ModelCall(
            models=self._models,
            messages=asked,
            wishes=wishes,
            run_id=self.id,
            transcript=self._transcript,
            budget=self._budget,
            degradation=self._degradation,
            summarise=self._summarised,
        )

    async def _summarised(self, key: str, left_out: Sequence[Message]) -> str:
        """Have what a model call has no room for summarised, as a step beside that call's."""
        talk = "\n".join(f"{message.role}: {message.content}" for message in left_out)
        asked = self._model_call(
            [Message("system", SUMMARISE), Message("user", talk)],
            Wishes(max_tokens=LONGEST_SUMMARY, stream=False, trim="cut"),
        )
        reply: ModelReply = await self._stepper.perform(key, asked.call("summary", MODEL_POLICY))
        return reply.content

    def receive(
        self, key: str = "input", *, timeout: float | timedelta | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Return what the next signal under a mailbox key says, waiting for it `timeout` (seconds) at most.

        A step of kind WAIT: recorded, charged, the same in a replay; the signal leaves the mailbox with the
        record, so it is received once whatever crashes. Signals come in the order of their arrival. When the
        run has nothing else to do for a second it is parked: it holds no runner, and goes on here once the
        signal has come or the time is over, which a crash or a restart of everything does not shorten or
        begin anew. Raises `NothingReceived` (a `TimeoutError`), and ValueError for what is no key.
        """
        call = receive_call(self._mailbox, self._waits, key, timeout)
        return received(self._stepper.perform(self._stepper.scope().key(call.name), call), key, timeout)

    def sleep(self, delay: float | timedelta | datetime) -> Coroutine[Any, Any, None]:
        """Wait for seconds, a span, or until a moment (with its time zone), at most 31 days; never less.

        A step of kind WAIT, parked as `receive` is: a sleep of days costs nothing, and goes on whatever dies
        meanwhile. Unlike `asyncio.sleep`, after which a replay would ask again. Raises ValueError.
        """
        call = sleep_call(self._waits, delay)
        return self._stepper.perform(self._stepper.scope().key(call.name), call)

    def approval(
        self,
        step: str,
        *,
        payload: Any = None,
        approvers: Iterable[str],
        timeout: float | timedelta,
        title: str = "",
        **terms: Any,
    ) -> Coroutine[Any, Any, Decision]:
        """Have people decide, and return what they decided; the run rests meanwhile, held by no runner.

        `approvers` are entries like `user:ann`, `group:underwriters` or `role:admin`, one of whom is enough,
        and quorums like `2 of group:underwriters`, each of which must be met; one who is listed denies for
        all.
        After `timeout` (seconds or a `timedelta`, at most 31 days, by the ledger's clock) the decision is
        `TIMED_OUT`, or the `default` ("approve" or "deny"). Further terms: `escalate` (a list of `Escalate`),
        `remind` (`Remind`), `requester_may_approve`, `editable` (approvers may edit the payload), and the
        destinations `notice` and `admin`, told when the gate opens and when its time is over.
        A step of kind WAIT; an open gate keeps its terms, whatever the code says meanwhile. Raises ValueError
        for terms that are none, `Permanent` for what the Approval service refuses.
        """
        policy = policy_of(approvers, timeout, **terms)
        call = self._door.call(checked_name(step), title, canonical(plain(payload)), policy)
        return decided(self._stepper.perform(self._stepper.scope().key(step), call))

    def spawn(
        self,
        intent: str,
        payload: Any = None,
        *,
        name: str = "spawn",
        key: str | None = None,
        **terms: Any,
    ) -> Coroutine[Any, Any, Child]:
        """Start another run, as a step, and return it: `await` it for its result.

        It spends of this run's budget: its steps, tools and tokens are set aside until it has ended, and what
        it has not spent comes back. Terms: `returns`, the type of its result; `budget` (`Limits`; those left
        at 0 are a sixteenth of what is left); `labels`; `ordering_key`; and `on_parent_end`: when this run
        ends first the child is cancelled ("cancel", with no later deadline than this run's), or goes on with
        what it was lent ("continue"). It is started once, whatever crashes: a `key` of the author's, unique
        in the tenant, or one that is the same in every replay, finds it again. Raises `StepFailed` for what
        is refused (`BUDGET_EXCEEDED`, `TOO_MANY_CHILDREN`, `UNKNOWN_INTENT`), ValueError for bad terms.
        """
        wanted = Wanted.of(intent, payload, **terms)
        scope = self._stepper.scope()
        step = scope.key(checked_name(name))
        start = self._nursery.start(name, wanted, key or stable_key(self.id, step))
        return self._nursery.spawned(self._stepper, scope, step, start, wanted)

    def map(
        self, fn: Callable[[T], Coroutine[Any, Any, R]], items: Iterable[T], *, at_once: int = 16
    ) -> Coroutine[Any, Any, list[R]]:
        """Go through items side by side, each in a scope of its own; the results come in order.

        A `Step` is executed as such for each item; any other async function is a branch of the agent, which
        may start steps. The first failure cancels the others.
        """
        if at_once < 1:
            raise ValueError(f"At least one item is done at once, not {at_once}.")
        each: Callable[[T], Coroutine[Any, Any, R]] = fn
        if isinstance(fn, Step):

            def each(item: T) -> Coroutine[Any, Any, R]:
                return self.step(fn, item)

        scope = self._stepper.scope()
        return in_branches(scope, scope.key("map"), each, items, at_once=at_once)

    def task(self, coroutine: Coroutine[Any, Any, R], *, name: str = "task") -> "asyncio.Task[R]":
        """Start a branch of the agent as a task; await it, or it is cancelled when the agent returns."""
        return branch(self._stepper.scope(), coroutine, checked_name(name))

    def say(self, text: str) -> None:
        """Tell those who follow the run something whole."""
        self._transcript.say(self._stepper.place(), text)

    def token(self, text: str) -> None:
        """Tell a piece of something; pieces are gathered for 20 ms, longer where many runs speak, or 1 KB."""
        if text:
            self._transcript.token(self._stepper.place(), text)

    def send(
        self,
        destination: str,
        payload: Any,
        *,
        key: str | None = None,
        ordering_key: str = "",
        not_before: datetime | None = None,
    ) -> str:
        """Stage an effect and return its idempotency key; it goes with the next record, or the run's end.

        From inside of a step it is released with that step's record, and forgotten if the try fails. Without
        a `key` of the author's, unique in the tenant, it has one that is the same in every replay. Effects of
        one `ordering_key` reach the destination in order. Raises ValueError for what cannot be sent.
        """
        place = self._stepper.place()
        if isinstance(place, Scope):
            path = place.key("send")
        else:
            assert isinstance(place, Frame)  # there are only these two
            place.sent += 1
            path = f"{place.step}/send#{place.sent}"
        key = key or stable_key(self.id, path)
        for text in (key, ordering_key, destination):
            if len(text.encode()) > LONGEST_KEY:
                raise ValueError(
                    f"A key or destination of an effect has at most {LONGEST_KEY} bytes: {text[:40]}…"
                )
        effect = make_effect(
            str(uuid.uuid5(EFFECTS, f"{self.id}/{path}")),
            destination,
            key=key,
            ordering_key=ordering_key,
            body=canonical(plain(payload)),
            not_before=None if not_before is None else not_before.timestamp(),
        )
        if isinstance(place, Scope):
            self._transcript.effect(place, effect)
        else:
            if sum(len(each.body) for each in place.effects) + len(effect.body) > LARGEST:
                raise ValueError(f"The effects of one step take at most {LARGEST:,} bytes.")
            place.effects.append(effect)
        return key

    def _outside_of_steps(self) -> None:
        place = self._stepper.place()
        if not isinstance(place, Scope):
            raise RuntimeError(  # noqa: TRY004 -- the place is wrong, not a type
                f"The step {place.step} cannot use the session: a replay would not execute it. Hand the step "
                "what it needs, and change the session after it."
            )

    def _perform(
        self,
        step: Step[..., R],
        kind: int,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        told: Callable[[Frame, bytes], None] | None,
    ) -> Coroutine[Any, Any, R]:
        """Take the key and describe the call."""
        key = self._stepper.scope().key(step.name)
        named = step.input(args, kwargs)
        transcript = self._transcript

        def execute(key: str, frame: Frame) -> Coroutine[Any, Any, R]:
            given = kwargs
            if step.wants_key and IDEMPOTENCY_KEY not in kwargs:
                given = {**kwargs, IDEMPOTENCY_KEY: stable_key(self.id, key)}
            if told is not None:
                transcript.tool_called(frame, step.name, canonical(named))
            return step.fn(*args, **given)

        performing = self._stepper.perform(
            key,
            Call(
                name=step.name,
                kind=kind,
                input=named,
                policy=step.policy,
                result=step.result,
                execute=execute,
                tells_result=told,
                undoable=step.undo is not None,
            ),
        )
        return performing if step.undo is None else self._undos.noting(key, step, named, performing)


def _spec(tool: Callable[..., Coroutine[Any, Any, Any]]) -> ToolSpec:
    return tool_spec(tool.fn if isinstance(tool, Step) else tool)
