"""What a run does here becomes spans and counts; what a replay returns from its records becomes neither.

run's trace ─ lease ─ invoke_agent ─┬─ step ─ chat
├─ execute_tool
└─ commit
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from holdfast.agent.engine.journal import Answer, Refused
from holdfast.agent.error import Failure, Interrupted
from holdfast.agent.model import ModelReply
from holdfast.agent.wire.draft import FUNCTION, MODEL, TOOL
from holdfast.agent.wire.invocation import Invocation
from holdfast.kit.telemetry import gen_ai, logs, span
from holdfast.kit.telemetry.about import about_run
from holdfast.kit.telemetry.metrics import timed
from holdfast.kit.telemetry.tracing import enabled
from holdfast.runner.metrics import OUTCOMES, RunnerMetrics

_KINDS: Final = {FUNCTION: "function", MODEL: "model", TOOL: "tool"}
"""Of the steps that are watched: a wait is what happens between two spans."""
_NOTHING: Final = nullcontext()

_log: Final = logs.logger("runner")


class Observation:
    """Watches one run under one lease; `traceparent` is where its activation stands in its trace."""

    def __init__(self, invocation: Invocation, agent_version: str, metrics: RunnerMetrics) -> None:
        self._metrics = metrics
        self._about: dict[str, Any] = {span.RUN_ID: invocation.run_id, span.TENANT: invocation.tenant}
        if invocation.correlation_id:
            self._about[span.CORRELATION_ID] = invocation.correlation_id
        self._invocation = invocation
        self._agent_version = agent_version
        self.traceparent = invocation.traceparent
        self._activation: Span = INVALID_SPAN
        self.fields = fields_of(invocation)
        """What log lines about the run say."""

    @contextmanager
    def activation(self) -> Iterator[Span]:
        """Be around everything that is done for the run here."""
        invocation = self._invocation
        about_run(invocation.run_id, invocation.correlation_id)
        if enabled():
            self._activation = self._activation_span()
            self.traceparent = span.traceparent(self._activation) or invocation.traceparent
        if self.traceparent:
            logs.bind(trace_id=self.traceparent[3:35])
        with span.within(self._activation):
            yield self._activation

    def _activation_span(self) -> Span:
        invocation = self._invocation
        attributes = self._about | {
            gen_ai.OPERATION: gen_ai.INVOKE_AGENT,
            gen_ai.AGENT_NAME: invocation.intent,
            span.INTENT: invocation.intent,
            span.EPOCH: invocation.epoch,
            span.ATTEMPT: invocation.attempt,
        }
        if self._agent_version:
            attributes[gen_ai.AGENT_VERSION] = self._agent_version
        if invocation.session_id:
            attributes[gen_ai.CONVERSATION_ID] = invocation.session_id
        return span.start(
            f"{gen_ai.INVOKE_AGENT} {invocation.intent}", under=invocation.traceparent, attributes=attributes
        )

    def failed(self, failure: Failure) -> None:
        """Say that the attempt has failed; not its message, which may quote what the run was given."""
        span.failed(self._activation, failure.reason)
        told = {"step": failure.step} if failure.step else {}
        invocation = self._invocation
        _log.warning(
            "attempt failed",
            reason=failure.reason,
            **told,
            intent=invocation.intent,
            attempt=invocation.attempt,
            **self.fields,
        )

    def step(self, key: str, name: str, kind: int) -> AbstractContextManager[object]:
        """Return what is around a step that is executed."""
        called = _KINDS.get(kind)
        if called is None:
            return _NOTHING
        return _Timed(self._step_span(key, name, called), self._metrics.steps[called], self.traceparent)

    def tried_again(self, kind: int) -> None:
        """Count a try that failed and is followed by another."""
        self._metrics.retries.labels(_KINDS.get(kind, "wait")).inc()

    @contextmanager
    def model(self, model: str, where: str) -> Iterator["_Asked"]:
        """Be around one call of a model."""
        begun: Span = INVALID_SPAN
        if enabled():
            attributes = self._about | {
                gen_ai.OPERATION: gen_ai.CHAT,
                gen_ai.PROVIDER: gen_ai.OPENAI,
                gen_ai.REQUEST_MODEL: model,
                SERVER_ADDRESS: urlsplit(where).hostname or "",
            }
            begun = span.start(f"{gen_ai.CHAT} {model}", kind=SpanKind.CLIENT, attributes=attributes)
        seconds = {outcome: self._metrics.model_seconds(model, outcome) for outcome in OUTCOMES}
        with _Timed(begun, seconds, self.traceparent):
            yield _Asked(begun, model, self._metrics)

    def _step_span(self, key: str, name: str, called: str) -> Span:
        if not enabled():
            return INVALID_SPAN
        attributes = self._about | {span.STEP: key, "holdfast.step.kind": called}
        if called != "tool":
            return span.start(f"step {name}", attributes=attributes)
        attributes |= {
            gen_ai.OPERATION: gen_ai.EXECUTE_TOOL,
            gen_ai.TOOL_NAME: name,
            gen_ai.TOOL_TYPE: gen_ai.FUNCTION,
        }
        return span.start(f"{gen_ai.EXECUTE_TOOL} {name}", attributes=attributes)


class _Timed:
    """Is in a span, and notes how long that took and how it ended, whatever it ends with."""

    __slots__ = ("_began", "_seconds", "_traceparent", "_within")

    def __init__(self, begun: Span, seconds: Mapping[str, Any], traceparent: str) -> None:
        self._seconds = seconds
        self._traceparent = traceparent
        self._within = None if begun is INVALID_SPAN else span.within(begun)
        self._began = time.perf_counter()

    def __enter__(self) -> None:
        if self._within is not None:
            self._within.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outcome = "succeeded"
        if error is not None:
            stopped = isinstance(error, Interrupted) or not isinstance(error, Exception)
            outcome = "stopped" if stopped else "failed"
        timed(self._seconds[outcome], time.perf_counter() - self._began, self._traceparent)
        if self._within is not None:
            self._within.__exit__(kind, error, trace)


def fields_of(invocation: Invocation) -> dict[str, str]:
    """Return what a log line about a run says."""
    fields = {"run_id": invocation.run_id}
    if invocation.correlation_id:
        fields["correlation_id"] = invocation.correlation_id
    if invocation.traceparent:
        fields["trace_id"] = invocation.traceparent[3:35]
    return fields


class Sent:
    """One commit on its way: a span of the run's trace, which the effects in it carry on."""

    __slots__ = ("_began", "_metrics", "_span", "_under", "traceparent")

    def __init__(self, under: "Observation", number: int) -> None:
        self._metrics = under._metrics  # noqa: SLF001 - one module
        self.traceparent = self._under = under.traceparent
        self._span: Span = INVALID_SPAN
        if enabled():
            attributes = under._about | {"holdfast.commit.number": number}  # noqa: SLF001 - as above
            self._span = span.start("commit", under=self._under, kind=SpanKind.CLIENT, attributes=attributes)
            self.traceparent = span.traceparent(self._span) or self._under
        self._began = time.perf_counter()

    def answered(self, answer: Answer) -> None:
        """End with what came back."""
        if isinstance(answer, Refused):
            self._metrics.commits_refused.labels(answer.reason).inc()
            span.failed(self._span, answer.reason)
        self._span.end()
        timed(self._metrics.commit_seconds, time.perf_counter() - self._began, self._under)


class _Asked:
    """A model that was asked."""

    __slots__ = ("_metrics", "_model", "_span")

    def __init__(self, begun: Span, model: str, metrics: RunnerMetrics) -> None:
        self._span = begun
        self._model = model
        self._metrics = metrics

    def answered(self, reply: ModelReply) -> None:
        """Take note of what it cost, and not of what it said."""
        usage = reply.usage
        self._metrics.model_tokens(self._model, "input").inc(usage.input_tokens)
        self._metrics.model_tokens(self._model, "output").inc(usage.output_tokens)
        if self._span.is_recording():
            self._span.set_attribute(gen_ai.RESPONSE_MODEL, reply.model)
            self._span.set_attribute(gen_ai.FINISH_REASONS, [reply.finish_reason])
            self._span.set_attribute(gen_ai.INPUT_TOKENS, usage.input_tokens)
            self._span.set_attribute(gen_ai.OUTPUT_TOKENS, usage.output_tokens)
