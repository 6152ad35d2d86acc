"""A run fails in two ways; what stops it is neither, and `except Exception` cannot swallow that.

Exception
├── (any other)             the attempt failed; it is tried again
└── Permanent               it fails for good
    ├── StepFailed              a step gave up; recorded if the agent goes on
    ├── Interrupted             an urgent signal cut a step short; recorded
    ├── NothingReceived         no signal came in time; recorded
    ├── ChildFailed             a child has ended, and not succeeded; recorded
    ├── NotRecordable           an input or output is no JSON, or too large
    ├── InvalidPayload          the invocation does not fit the agent
    └── InvalidSession          what the session holds does not

BaseException
└── RunStopped
    ├── RunCancelled            someone asked
    ├── BudgetExhausted         a limit was reached
    ├── Drifted                 the code no longer matches the recorded steps
    ├── CommitRefused           what the run did may not be committed
    ├── HandedBack              the runner drains
    ├── Parked                  it only waits: it rests until what it waits for has come
    └── LeaseLost               another runner has the run now
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.agent.budget import Dimension

INTERRUPTED = "INTERRUPTED"
"""The reason of a step that a signal has cut short."""
LONGEST_MESSAGE = 1000
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed: a name for programs, a sentence for people, where, and after how many tries."""

    reason: str
    message: str
    step: str = ""
    attempts: int = 0


class Permanent(Exception):  # noqa: N818 -- reads as what is the matter
    """A failure that trying again cannot mend; raise it, or a subclass, from a step or an agent.

    `reason` is the name programs switch on: by default `PERMANENT`, and for a subclass its class name.
    """

    def __init__(self, message: str = "", *, reason: str | None = None) -> None:
        super().__init__(message)
        own = type(self)
        self.reason = reason or ("PERMANENT" if own is Permanent else own.__name__)


class StepFailed(Permanent):
    """A step has failed for good; live its cause is what the step raised, in a replay there is none."""

    def __init__(self, failure: Failure, *, permanent: bool) -> None:
        super().__init__(failure.message, reason=failure.reason)
        self.failure = failure
        self.permanent = permanent
        """False if every try failed with something that might pass: the run may try once more."""

    def __str__(self) -> str:
        return f"step {self.failure.step} failed: {self.failure.reason}: {self.failure.message}"


class Interrupted(Permanent):
    """An urgent signal has cut an `interruptible` step short; a replay raises it again at the same place.

    `payload` is what was said, under the mailbox key `key`. Catch it and go on; uncaught, the run fails.
    """

    def __init__(self, payload: Any, *, key: str) -> None:
        super().__init__(f"a signal under the key {key} interrupted the step", reason=INTERRUPTED)
        self.payload = payload
        self.key = key


class NothingReceived(Permanent, TimeoutError):  # noqa: N818 -- reads as what is the matter
    """Nothing came under a mailbox key in time; recorded, so a replay raises it again at the same place."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="NOTHING_RECEIVED")


class ChildFailed(Permanent):
    """A child has ended in another way than SUCCEEDED; a replay raises it again at the same place.

    `status` says how, `failure` why. Catch it and go on; uncaught, the run fails.
    """

    def __init__(self, run_id: str, intent: str, status: str, failure: Failure | None) -> None:
        why = "" if failure is None else f": {failure.reason}: {failure.message}"
        super().__init__(f"the child {intent} ended {status}{why}", reason="CHILD_FAILED")
        self.run_id = run_id
        self.status = status
        self.failure = failure


class NotRecordable(Permanent):
    """An input or an output cannot be recorded."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="NOT_RECORDABLE")


class InvalidPayload(Permanent):
    """The payload of an invocation does not fit the agent; the text names the fields."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="INVALID_PAYLOAD")


class InvalidSession(Permanent):
    """What a session holds does not fit the agent's type of it; the text names the fields."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="INVALID_SESSION")


class RunStopped(BaseException):
    """The run does not go on here; let it pass."""


class RunCancelled(RunStopped):
    """Someone asked to cancel the run."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the run was cancelled")
        self.reason = reason


class BudgetExhausted(RunStopped):
    """The run has reached a limit of its budget; no further step starts."""

    def __init__(self, dimension: Dimension) -> None:
        spent = f"the run's budget of {dimension.name.lower()} is spent"
        super().__init__("the run's deadline has passed" if dimension is Dimension.DEADLINE else spent)
        self.dimension = dimension


class Drifted(RunStopped):
    """The agent asks for something else than it did when the step was recorded."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(message)
        self.step = step


class CommitRefused(RunStopped):
    """A commit was refused for what is in it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class HandedBack(RunStopped):
    """The runner gives the run back to the queue, unharmed."""


class Parked(RunStopped):
    """The run only waits: it rests, and goes on once a signal under a key, or its time, has come."""

    def __init__(self, keys: Sequence[str], seconds: float | None) -> None:
        super().__init__("the run rests until what it waits for has come")
        self.keys = keys
        self.seconds = seconds
        """After which it goes on at the latest; None if only a signal wakes it."""


class LeaseLost(RunStopped):
    """The run is no longer this runner's; nothing more of it is committed here."""


def failure_of(error: BaseException, *, step: str = "", attempts: int = 0) -> Failure:
    """Describe an exception: by `Permanent.reason`, `TIMEOUT`, or the name of its class."""
    if isinstance(error, StepFailed):
        return error.failure
    if isinstance(error, Permanent):
        reason = error.reason
    elif isinstance(error, TimeoutError):
        reason = "TIMEOUT"
    else:
        reason = type(error).__name__
    message = str(error) or reason
    return Failure(storable(reason, 200), storable(message, LONGEST_MESSAGE), step, attempts)


def storable(text: str, longest: int) -> str:
    """Cut a text for people to `longest` characters, and replace what no database text can hold."""
    return UNSTORABLE.sub("�", text if len(text) <= longest else text[: longest - 1] + "…")
