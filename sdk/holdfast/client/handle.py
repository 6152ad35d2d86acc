"""A run that was invoked: what it was at that moment, and the ways to follow it from there."""

from collections.abc import Awaitable
from typing import Any, Protocol

from holdfast.client.number import RunStatus
from holdfast.client.run import Run
from holdfast.client.watch import Watch


class RunUnsuccessful(Exception):  # noqa: N818 - the run's end, not an error of the call
    """A run ended otherwise than SUCCEEDED; `run.outcome` says how, with what it managed if PARTIAL."""

    def __init__(self, run: Run) -> None:
        failure = run.outcome.failure if run.outcome is not None else None
        why = f": {failure.message}" if failure is not None and failure.message else ""
        super().__init__(f"Run {run.run_id} ended {run.status.name}{why}")
        self.run = run


class Following(Protocol):
    """The calls of the client that a handle makes."""

    def await_run(self, run_id: str, *, patience: float | None = None) -> Awaitable[Run]:
        """Wait for the end of a run."""
        ...

    def watch(self, run_id: str, after_sequence: int = 0, after_epoch: int = 0) -> Watch:
        """Follow a run."""
        ...

    def cancel(self, run_id: str, reason: str = "") -> Awaitable[Run]:
        """Ask a run to stop."""
        ...

    def signal(self, run_id: str, key: str, payload: Any = None, *, signal_id: str = "") -> Awaitable[str]:
        """Put a message in a run's mailbox."""
        ...

    def interrupt(self, run_id: str, payload: Any = None, *, signal_id: str = "") -> Awaitable[str]:
        """Hand urgent input to a run."""
        ...


class RunHandle:
    """A run by its id; `run` is how it stood when the call answered."""

    def __init__(self, client: Following, run: Run, *, reattached: bool) -> None:
        self.run = run
        self.reattached = reattached
        self._client = client

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.run.run_id

    @property
    def status(self) -> RunStatus:
        """Where the run stood when the call answered."""
        return self.run.status

    async def ended(self, *, patience: float | None = None) -> Run:
        """Wait until it has ended, `patience` seconds at most; `TimeoutError` after them."""
        if not self.run.is_ended:
            self.run = await self._client.await_run(self.run_id, patience=patience)
        return self.run

    async def result(self, *, patience: float | None = None) -> Any:
        """Wait for its end and return what the agent returned. Raises `RunUnsuccessful` for any other end."""
        run = await self.ended(patience=patience)
        if run.status is not RunStatus.SUCCEEDED or run.outcome is None:
            raise RunUnsuccessful(run)
        return run.outcome.result

    def watch(self, after_sequence: int = 0) -> Watch:
        """Follow its events."""
        return self._client.watch(self.run_id, after_sequence)

    async def cancel(self, reason: str = "") -> Run:
        """Ask it to stop."""
        return await self._client.cancel(self.run_id, reason)

    async def signal(self, key: str, payload: Any = None, *, signal_id: str = "") -> str:
        """Put a message in its mailbox under a key; see `Client.signal`."""
        return await self._client.signal(self.run_id, key, payload, signal_id=signal_id)

    async def interrupt(self, payload: Any = None, *, signal_id: str = "") -> str:
        """Hand it urgent input; see `Client.interrupt`."""
        return await self._client.interrupt(self.run_id, payload, signal_id=signal_id)
