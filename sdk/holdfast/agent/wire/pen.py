"""Writes what happens in a run as events, in order and without gaps."""

import time
from collections.abc import Callable

from holdfast.agent.budget import Limits, Usage
from holdfast.agent.error import Failure
from holdfast.agent.wire import value as json_value
from holdfast.agent.wire.draft import Draft, Effect, Outcome, Record
from holdfast.agent.wire.field import write_budget, write_duration, write_failure, write_time, write_usage
from holdfast.v1.run_pb2 import RunStatus
from holdfast.v1.transcript_pb2 import RunEvent


class Pen:
    """Writes events into drafts, numbers them without gaps, and tells each to `told` when it is complete."""

    __slots__ = ("_attempt", "_epoch", "_run_id", "_told", "sequence")

    def __init__(
        self, run_id: str, epoch: int, attempt: int, last_sequence: int, told: Callable[[RunEvent], None]
    ) -> None:
        self._run_id = run_id
        self._epoch = epoch
        self._attempt = attempt
        self._told = told
        self.sequence = last_sequence

    def _event(self, draft: Draft, step: str, size: int) -> RunEvent:
        self.sequence += 1
        event = draft.event(
            run_id=self._run_id, sequence=self.sequence, attempt=self._attempt, epoch=self._epoch, step=step
        )
        write_time(event.time, time.time_ns())
        draft.size += 96 + size
        return event

    def started(self, draft: Draft, version: str, replayed: int) -> None:
        """Tell that the run has started or resumed here."""
        event = self._event(draft, "", len(version))
        event.started.epoch = self._epoch
        event.started.agent_version = version
        event.started.replayed_steps = replayed
        self._told(event)

    def step_started(self, draft: Draft, key: str, kind: int, attempt: int) -> None:
        """Tell that a try of a step begins."""
        event = self._event(draft, key, len(key))
        started = event.step_started
        started.key = key
        started.kind = kind  # type: ignore[assignment]
        started.attempt = attempt
        self._told(event)

    def step_finished(self, draft: Draft, record: Record) -> None:
        """Tell that a step was recorded."""
        event = self._event(draft, record.key, len(record.key))
        finished = event.step_finished
        finished.key = record.key
        finished.kind = record.kind
        finished.attempts = record.attempts
        finished.usage.CopyFrom(record.usage)
        finished.duration.CopyFrom(record.duration)
        if record.HasField("failure"):
            finished.failure.CopyFrom(record.failure)
        self._told(event)

    def step_failed(self, draft: Draft, key: str, attempt: int, failure: Failure, retry_in: float) -> None:
        """Tell that a try failed and another follows."""
        event = self._event(draft, key, len(key) + len(failure.message))
        failed = event.step_failed
        failed.key = key
        failed.attempt = attempt
        write_failure(failed.failure, failure)
        write_duration(failed.retry_in, retry_in)
        self._told(event)

    def said(self, draft: Draft, step: str, text: str) -> None:
        """Tell something whole."""
        event = self._event(draft, step, len(text))
        event.said.text = text
        self._told(event)

    def token(self, draft: Draft, step: str, text: str) -> None:
        """Tell a piece."""
        event = self._event(draft, step, len(text))
        event.token.text = text
        self._told(event)

    def approval_requested(self, draft: Draft, step: str, approval_id: str, name: str) -> None:
        """Tell that a gate was opened, and which approval is to be decided."""
        event = self._event(draft, step, 64)
        event.approval_requested.approval_id = approval_id
        event.approval_requested.step = name
        self._told(event)

    def child_spawned(self, draft: Draft, step: str, run_id: str, intent: str) -> None:
        """Tell that a child was started."""
        event = self._event(draft, step, 64 + len(intent))
        event.child_spawned.run_id = run_id
        event.child_spawned.intent = intent
        self._told(event)

    def child_ended(self, draft: Draft, step: str, run_id: str, status: str) -> None:
        """Tell that the agent hears of a child's end."""
        event = self._event(draft, step, 64)
        event.child_ended.run_id = run_id
        event.child_ended.status = RunStatus.Value(f"RUN_STATUS_{status}")
        self._told(event)

    def tool_called(self, draft: Draft, step: str, tool: str, arguments: bytes) -> None:
        """Tell that a tool is called with these arguments, as JSON."""
        event = self._event(draft, step, 4 * len(arguments))
        event.tool_called.tool = tool
        json_value.show(event.tool_called.arguments, arguments)
        self._told(event)

    def tool_returned(self, draft: Draft, step: str, tool: str, result: bytes) -> None:
        """Tell what a tool returned, as JSON."""
        event = self._event(draft, step, 4 * len(result))
        event.tool_returned.tool = tool
        json_value.show(event.tool_returned.result, result)
        self._told(event)

    def effect_staged(self, draft: Draft, step: str, effect: Effect) -> None:
        """Tell that an effect was staged."""
        event = self._event(draft, step, 128)
        staged = event.effect_staged
        staged.effect_id = effect.effect_id
        staged.destination = effect.destination
        staged.idempotency_key = effect.idempotency_key
        self._told(event)

    def input_received(self, draft: Draft, step: str, key: str, *, interrupted: bool) -> None:
        """Tell that a signal has reached the agent."""
        event = self._event(draft, step, len(key))
        event.input_received.key = key
        event.input_received.interrupted = interrupted
        self._told(event)

    def handed_off(self, draft: Draft, limits: Limits) -> None:
        """Tell that the run goes on in the background, under these limits."""
        event = self._event(draft, "", 64)
        event.handed_off.run_id = self._run_id
        write_budget(event.handed_off.budget, limits)
        self._told(event)

    def budget_reported(self, draft: Draft, spent: Usage, elapsed: float, limits: Limits) -> None:
        """Tell what is spent, and of what."""
        event = self._event(draft, "", 96)
        write_usage(event.budget_reported.usage, spent)
        event.budget_reported.usage.elapsed_ms = int(elapsed * 1000)
        write_budget(event.budget_reported.budget, limits)
        self._told(event)

    def degraded(self, draft: Draft, dimension: int, used: int, limit: int, rung: str) -> None:
        """Tell that a rung was taken, and what presses."""
        event = self._event(draft, "", len(rung))
        event.degraded.dimension = dimension  # type: ignore[assignment]
        event.degraded.used = used
        event.degraded.limit = limit
        event.degraded.rung = rung
        self._told(event)

    def ended(self, draft: Draft, outcome: Outcome, usage: Usage, elapsed: float) -> RunEvent:
        """Write how the run ends, the last event; it is told when it is durable, by who has it then."""
        event = self._event(draft, "", outcome.message.ByteSize())
        event.ended.outcome.CopyFrom(outcome.message)
        write_usage(event.ended.usage, usage)
        event.ended.usage.elapsed_ms = int(elapsed * 1000)
        return event

    def unsay(self) -> None:
        """Take back the last number: its event was refused and has not been told."""
        self.sequence -= 1
