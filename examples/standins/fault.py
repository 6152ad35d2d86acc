"""The faults a stand-in can be told to show, each used up by the request that meets it."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Fault:
    """One way to fail, for the next `count` requests.

    `kind` is an HTTP status ("429", "500", any other from 300 up), "hang" (no answer until the client
    leaves), "reset" (the connection is cut before anything happens), or one of the words the stand-in adds.
    `retry_after` is in seconds and goes into the header of that name. `after_tokens` says how much of a
    stream is sent before it breaks, `delay` how long one that starts slowly is silent, in seconds.
    """

    kind: str
    count: int = 1
    retry_after: float | None = None
    after_tokens: int = 3
    delay: float = 0.0
    message: str = "The stand-in was told to fail."
    code: str | None = None
    param: str | None = None

    @property
    def status(self) -> int | None:
        """The HTTP status to answer, None when the fault is not a status."""
        return int(self.kind) if self.kind.isdigit() else None

    def headers(self) -> dict[str, str]:
        """Return the headers a refusal carries."""
        return {} if self.retry_after is None else {"Retry-After": f"{self.retry_after:g}"}


class FaultPlan:
    """The faults still to come, in the order they were asked for."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self._kinds = kinds | {"hang", "reset"}
        self._coming: deque[Fault] = deque()

    def add(self, fault: Fault) -> None:
        """Queue a fault. Raises ValueError for a kind this stand-in does not know."""
        self._check(fault)
        self._coming.append(fault)

    def add_json(self, document: Mapping[str, Any]) -> None:
        """Queue a fault written as JSON with the fields of `Fault`. Raises ValueError when it is none."""
        try:
            self.add(Fault(**{**document, "kind": str(document.get("kind", ""))}))
        except TypeError as error:
            raise ValueError(f"not a fault: {error}") from error

    def clear(self) -> None:
        """Forget what has not happened yet."""
        self._coming.clear()

    def take(self, header: str | None = None) -> Fault | None:
        """Use up and return the next fault; a header on the request itself goes first and uses up none."""
        if header:
            fault = Fault(kind=header)
            self._check(fault)
            return fault
        if not self._coming:
            return None
        fault = self._coming.popleft()
        if fault.count > 1:
            self._coming.appendleft(replace(fault, count=fault.count - 1))
        return fault

    def _check(self, fault: Fault) -> None:
        lowest_failure, highest_failure = 300, 599
        if fault.status is not None:
            if not lowest_failure <= fault.status <= highest_failure:
                raise ValueError(f"status {fault.kind} is not a failure")
        elif fault.kind not in self._kinds:
            raise ValueError(
                f"fault {fault.kind!r} is not a status nor one of {', '.join(sorted(self._kinds))}"
            )
        if fault.count < 1:
            raise ValueError("the count of a fault is at least 1")
