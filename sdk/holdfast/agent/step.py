"""A step is an async function with a policy: its outcome is recorded, and it is never executed again."""

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any, Final, Generic, ParamSpec, TypeVar, get_type_hints, overload

from holdfast.agent.codec import Shape
from holdfast.agent.error import NotRecordable

P = ParamSpec("P")
R = TypeVar("R")

IDEMPOTENCY_KEY: Final = "idempotency_key"
UNDO_GIVEN: Final = frozenset({"result", "undoes", "run"})
"""What an undo may take beside its step's arguments."""
LONGEST_NAME: Final = 100
RESERVED: Final = frozenset("/#!")


@dataclass(frozen=True, slots=True)
class Policy:
    """How a step is tried: how often in all, how long each try in seconds, and whether it may run again.

    An `optional` step is left out once the agent's degradation says so, and returns None.

    `repeatable` lets the agent go on before the step's record is durable: after a crash the step may be
    executed once more. For reads and model calls; never for what changes the world. `interruptible` lets an
    urgent signal cancel it: the agent gets `Interrupted`.
    """

    attempts: int = 3
    timeout: float | None = None
    repeatable: bool = False
    optional: bool = False
    interruptible: bool = False

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"A step needs at least one attempt, not {self.attempts}.")
        if self.timeout is not None and self.timeout <= 0:
            raise ValueError(f"A step's timeout must be above 0 seconds, not {self.timeout}.")


DEFAULT: Final = Policy()
UNDO: Final = Policy(attempts=10)
"""The policy of an undo that does not come with its own."""


@dataclass(frozen=True, slots=True)
class _Signature:
    """What the runtime must know of a function: its parameters, whether it wants the key, what it returns."""

    names: tuple[str, ...]
    rest: str
    wants_key: bool
    result: Shape

    @classmethod
    def of(cls, fn: Callable[..., Any], name: str) -> "_Signature":
        if not inspect.iscoroutinefunction(fn):
            raise TypeError(
                f"The step {name} must be an async function; wrap a blocking call in asyncio.to_thread."
            )
        parameters = inspect.signature(fn).parameters.values()
        plain: Any = fn
        while isinstance(plain, functools.partial):
            plain = plain.func
        try:
            hints = get_type_hints(plain, include_extras=True)
        except (NameError, TypeError) as error:
            raise TypeError(f"The types of the step {name} cannot be resolved: {error}.") from error
        return cls(
            names=tuple(
                each.name
                for each in parameters
                if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
            ),
            rest=next((each.name for each in parameters if each.kind is each.VAR_POSITIONAL), "*"),
            wants_key=any(each.name == IDEMPOTENCY_KEY for each in parameters),
            result=Shape(hints.get("return", Any)),
        )


class Step(Generic[P, R]):
    """A function made a step; awaiting a call of it outside of a run just calls the function."""

    def __init__(
        self,
        fn: Callable[P, Coroutine[Any, Any, R]],
        policy: Policy,
        name: str | None = None,
        undo: Callable[..., Coroutine[Any, Any, Any]] | None = None,
    ) -> None:
        self.fn = fn
        self.policy = policy
        self.name = checked_name(name or _name_of(fn))
        signature = _signature(fn, self.name)
        self._names = signature.names
        self._rest = signature.rest
        self.wants_key = signature.wants_key
        self.result = signature.result
        if policy.optional:
            try:
                self.result.read(b"null")
            except NotRecordable:
                raise TypeError(
                    f"The optional step {self.name} may be left out: annotate that it returns None, too."
                ) from None
        self.undo = None if undo is None else _undo_of(fn, self.name, undo)
        self.__name__ = _name_of(fn)
        self.__doc__ = fn.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call the function itself, with nothing recorded."""
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Step({self.name})"

    def input(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Name the arguments of a call: the same input whether they came by place or by name."""
        named = dict(zip(self._names, args, strict=False))
        if len(args) > len(self._names):
            named[self._rest] = args[len(self._names) :]
        if kwargs:
            named.update(kwargs)
        if self.wants_key:
            named.pop(IDEMPOTENCY_KEY, None)
        return named

    def undo_input(self, named: Mapping[str, Any], result: Any, key: str, run: Any) -> dict[str, Any]:
        """Return what the undo of a call takes; `named` is the call's input, `key` its idempotency key."""
        assert self.undo is not None  # the caller has looked
        known = {"result": result, "undoes": key, "run": run, **named}
        defaults = inspect.signature(self.fn).parameters
        wanted = (name for name in inspect.signature(self.undo.fn).parameters if name != IDEMPOTENCY_KEY)
        return {
            name: known[name] if name in known else defaults[name].default
            for name in wanted
            if name in known or (name in defaults and defaults[name].kind not in _GATHERED)
        }


@overload
def step(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
@overload
def step(
    *,
    attempts: int = ...,
    timeout: float | None = ...,
    repeatable: bool = ...,
    optional: bool = ...,
    interruptible: bool = ...,
    undo: Callable[..., Coroutine[Any, Any, Any]] | None = ...,
    name: str | None = ...,
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Step[P, R]]: ...
def step(
    fn: Callable[P, Coroutine[Any, Any, R]] | None = None,
    /,
    *,
    attempts: int = DEFAULT.attempts,
    timeout: float | None = None,
    repeatable: bool = False,
    optional: bool = False,
    interruptible: bool = False,
    undo: Callable[..., Coroutine[Any, Any, Any]] | None = None,
    name: str | None = None,
) -> Step[P, R] | Callable[[Callable[P, Coroutine[Any, Any, R]]], Step[P, R]]:
    """Make an async function a step: `@step`, `@step(attempts=5)`, or `step(timeout=10)(charge)`.

    `name` (by default the function's) is part of the record's key: keep it when the function is renamed.
    A parameter `idempotency_key` is filled with a key that is the same in every try and replay.

    `undo` is an async function, or a step, that takes the step back if the run does not come to a good end:
    that the step begins is durable before it is executed, so one that was cut short is undone, too. It takes
    any of the step's parameters by name, and as it likes `result` (what the step returned; None if that is
    not known), `undoes` (the `idempotency_key` that the step had), an `idempotency_key` of its own, and
    `run`, to say and send things. Raises TypeError for an undo that takes anything else.
    """
    policy = Policy(attempts, timeout, repeatable, optional, interruptible)
    if fn is not None:
        return Step(fn, policy, name, undo)
    return lambda decorated: Step(decorated, policy, name, undo)


def as_step(fn: Callable[P, Coroutine[Any, Any, R]]) -> Step[P, R]:
    """Return a step as it is, and any other async function as a step of the default policy."""
    if isinstance(fn, Step):
        return fn
    # A function defined at module level is met again and again; what is made inside of a run is not kept.
    known = _steps.get(fn)
    if known is not None:
        return known  # type: ignore[return-value]  # a function's step has the function's types
    made = Step(fn, DEFAULT)
    if isinstance(fn, FunctionType) and "<locals>" not in fn.__qualname__:
        _steps[fn] = made
    return made


def checked_name(name: str) -> str:
    """Return a name that can be part of a key. Raises ValueError."""
    if not name or len(name) > LONGEST_NAME or RESERVED.intersection(name) or not name.isprintable():
        raise ValueError(
            f"A step's name has 1 to {LONGEST_NAME} characters, none of them / # !; {name!r} does not fit."
        )
    return name


_GATHERED: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_steps: Final[dict[Callable[..., Any], Step[..., Any]]] = {}
_signatures: Final[dict[CodeType, _Signature]] = {}


def _undo_of(
    fn: Callable[..., Any], name: str, undo: Callable[..., Coroutine[Any, Any, Any]]
) -> Step[..., Any]:
    """Make a step of an undo. Raises TypeError for one that cannot be given what it takes."""
    made = undo if isinstance(undo, Step) else Step(undo, UNDO)
    if made.undo is not None:
        raise TypeError(f"The undo of the step {name} cannot have an undo of its own.")
    own = inspect.signature(fn).parameters
    for each in inspect.signature(made.fn).parameters.values():
        step_has = each.name in own and own[each.name].kind not in _GATHERED
        if each.kind in _GATHERED or each.name == IDEMPOTENCY_KEY:
            continue
        if step_has and each.name in UNDO_GIVEN:
            raise TypeError(f"The step {name} has a parameter {each.name}: its undo cannot take it.")
        given = step_has or each.name in UNDO_GIVEN or each.default is not each.empty
        if not given or each.kind is each.POSITIONAL_ONLY:
            raise TypeError(
                f"The undo of the step {name} cannot take {each.name}: it takes parameters of the step by "
                "name, result, undoes, run and idempotency_key."
            )
    return made


def _name_of(fn: Callable[..., Any]) -> str:
    return str(getattr(fn, "__name__", type(fn).__name__))


def _signature(fn: Callable[..., Any], name: str) -> _Signature:
    # A function made anew in each run has the same code each time, and the same signature.
    if not isinstance(fn, FunctionType):
        return _Signature.of(fn, name)
    code = fn.__code__
    known = _signatures.get(code)
    if known is None:
        known = _signatures[code] = _Signature.of(fn, name)
    return known
