"""An app is a named set of agents: which intents it serves, with what code, at which version."""

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypeVar, get_args, get_type_hints

from pydantic import ValidationError

from holdfast.agent.budget import Dimension
from holdfast.agent.codec import Shape, fields_of
from holdfast.agent.degradation import Rung
from holdfast.agent.engine.duration import Durations
from holdfast.agent.error import InvalidPayload
from holdfast.agent.model import ModelEndpoint
from holdfast.agent.model_ladder import Models
from holdfast.agent.model_tokens import TokenEstimator, estimate_tokens
from holdfast.agent.model_trim import TRIMS, Trim
from holdfast.agent.run import Run
from holdfast.agent.session import Kind
from holdfast.agent.undo import DAY, Terms, UndoOn
from holdfast.payload import is_sealed

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])
OnExhausted = Callable[[Run, Dimension], Any]
OnInput = Literal["enqueue", "interrupt", "reject", "restart"]

POLICIES: Final[tuple[OnInput, ...]] = get_args(OnInput)

MOST_CRITICAL: Final = 16
"""Destinations that one agent may call critical."""
INTENT: Final = re.compile(r"[A-Za-z0-9_./-]{1,255}")


@dataclass(frozen=True, slots=True)
class Agent:
    """The code for one intent."""

    intent: str
    fn: Callable[..., Awaitable[Any]]
    version: str
    takes_payload: bool
    payload: Shape
    result: Shape
    on_exhausted: OnExhausted | None
    max_attempts: int | None
    max_concurrent: int
    on_input: OnInput
    session: Kind
    durations: Durations | None
    degrade: tuple[Rung, ...] = ()
    trim: Trim = "error"
    undo: Terms = Terms(("failure",), DAY)  # noqa: RUF009 -- frozen
    light: bool = False
    critical: tuple[str, ...] = ()

    def accept(self, payload: dict[str, Any]) -> tuple[Any, ...]:
        """Return the arguments after `run`. Raises `InvalidPayload`, naming each wrong field."""
        if is_sealed(payload):
            raise InvalidPayload("it is sealed, and this runner has not the key")
        if not self.takes_payload:
            return ()
        try:
            return (self.payload.accept(payload),)
        except ValidationError as error:
            raise InvalidPayload(fields_of(error)) from error


class App:
    """Agents that are deployed together.

    `version` is that of their code: a run that has started goes on with a runner of its version, or of one
    that calls it compatible. `model` is what `run.model` asks, one or a ladder of several; by default what
    OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL name. `estimate` counts what a call to those will read,
    before it is made; a model given here brings its own.
    """

    def __init__(
        self,
        name: str,
        version: str = "1",
        *,
        compatible_versions: Iterable[str] = (),
        model: ModelEndpoint | Models | None = None,
        estimate: TokenEstimator = estimate_tokens,
    ) -> None:
        if not name or not version:
            raise ValueError("An app needs a name and a version.")
        self.name = name
        self.version = version
        self.compatible_versions = tuple(compatible_versions)
        self.agents: dict[str, Agent] = {}
        self._estimate = estimate
        self._models = Models(model=model) if isinstance(model, ModelEndpoint) else model

    def __repr__(self) -> str:
        return f"App({self.name!r}, version={self.version!r}, intents={sorted(self.agents)})"

    def agent(
        self,
        intent: str,
        *,
        on_exhausted: OnExhausted | None = None,
        max_attempts: int | None = None,
        max_concurrent: int = 0,
        session: type[Any] = dict,
        predict: bool = True,
        degrade: Iterable[Rung] = (),
        trim: Trim = "error",
        on_input: OnInput = "enqueue",
        undo_on: Iterable[UndoOn] = ("failure",),
        undo_within: float | timedelta = DAY,
        light: bool = False,
        critical: Iterable[str] = (),
    ) -> Callable[[F], F]:
        """Register an async function for an intent: `async def f(run: Run, payload: T) -> U`.

        The payload is checked against `T`: a dataclass, a pydantic model, a dict. `on_exhausted(run,
        dimension)`, async or not, returns what was managed so far when a limit is reached; it has 2 seconds
        and no steps.
        `max_attempts` fails a run before the platform would set it aside; `max_concurrent` bounds the runs of
        this intent on one runner. `on_input` says what becomes of input that comes while a run is going on:
        it waits for `run.receive` (enqueue), it is urgent as an interrupt is, it is refused (reject), or the
        agent is called anew and finds it in `run.inputs` (restart).
        `session` is the type of `run.session`: a dataclass or a pydantic model whose fields all have
        defaults, or a dict. With `predict`, a run that may move to the background does so before a step that
        would probably miss its deadline. `degrade` are the rungs taken as the budget runs low, `trim` says
        what becomes of messages that a model call has no room for. Steps that have an `undo` are undone when
        the run would end as `undo_on` says ("failure", "cancel", "exhausted"), the newest first, for at most
        `undo_within` (seconds or a `timedelta`, up to 31 days), apart from its budget. With `light`, items of
        batches are executed many at a time without runs of their own: recorded once, though after a crash
        all of their code runs again; they stage no effects, rest at nothing, and have no gates, children or
        undos. While the breaker of a destination among `critical` is open, runs wait instead of starting.
        Raises ValueError or TypeError, in one sentence, for what cannot be served.
        """
        if not INTENT.fullmatch(intent):
            raise ValueError(f"An intent has 1 to 255 letters, digits, _ . / and -; {intent!r} does not fit.")
        if intent in self.agents:
            raise ValueError(f"The intent {intent} has an agent already: {self.agents[intent].fn.__name__}.")
        if max_attempts is not None and max_attempts < 1:
            raise ValueError(f"An agent needs at least one attempt, not {max_attempts}.")
        if on_input not in POLICIES:
            raise ValueError(f"An agent's on_input is one of {', '.join(POLICIES)}, not {on_input!r}.")

        if trim not in TRIMS:
            raise ValueError(f"What there is no room for is treated as {', '.join(TRIMS)}, not {trim!r}.")
        destinations = _critical(critical)
        kind = Kind(session)
        undo = Terms.of(undo_on, undo_within)

        def register(fn: F) -> F:
            payload, result = _signature(fn, intent)
            self.agents[intent] = Agent(
                intent=intent,
                fn=fn,
                version=self.version,
                takes_payload=payload is not inspect.Parameter.empty,
                payload=Shape(Any if payload is inspect.Parameter.empty else payload),
                result=Shape(result),
                on_exhausted=on_exhausted,
                max_attempts=max_attempts,
                max_concurrent=max_concurrent,
                session=kind,
                durations=Durations() if predict else None,
                degrade=tuple(degrade),
                trim=trim,
                on_input=on_input,
                undo=undo,
                light=light,
                critical=destinations,
            )
            return fn

        return register

    def models(self) -> Models:
        """Return the models to ask, made from the environment when they are first asked for.

        Raises ValueError when no model is configured.
        """
        if self._models is None:
            self._models = Models.from_environment(self._estimate)
        return self._models

    async def close(self) -> None:
        """Close the connections to the models. Repeatable."""
        if self._models is not None:
            await self._models.close()
            self._models = None


def _critical(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of destinations, each once."""
    if isinstance(names, str):
        raise TypeError("An agent's critical lists destinations: critical=['tickets'], not one text.")
    unique = tuple(dict.fromkeys(names))
    if len(unique) > MOST_CRITICAL or not all(unique):
        raise ValueError(f"An agent's critical lists up to {MOST_CRITICAL} destinations by name.")
    return unique


def _signature(fn: Callable[..., Any], intent: str) -> tuple[Any, Any]:
    """Return the types of payload and result; `Parameter.empty` for an agent that takes no payload."""
    if not inspect.iscoroutinefunction(fn):
        raise TypeError(f"The agent for {intent} must be an async function.")
    parameters = list(inspect.signature(fn).parameters.values())
    needed = [each for each in parameters if each.default is each.empty]
    if not parameters or len(needed) > 2 or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:  # noqa: PLR2004
        raise TypeError(f"The agent for {intent} must take (run) or (run, payload).")
    try:
        hints = get_type_hints(fn, include_extras=True)
    except (NameError, TypeError) as error:
        raise TypeError(f"The types of the agent for {intent} cannot be resolved: {error}.") from error
    result = hints.get("return", Any)
    if len(parameters) == 1:
        return inspect.Parameter.empty, result
    return hints.get(parameters[1].name, Any), result
