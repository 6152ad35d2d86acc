"""A commit as the wire has it becomes a commit as the ledger takes it, or is refused naming each bad field.

On the hot path: what is well-formed is passed over quickly, and sentences are made only for what is not.
"""

import json
import uuid
from datetime import UTC
from typing import Any, Final

from holdfast.checkpoint.message_move import move_of, undo_of
from holdfast.checkpoint.message_session import session_of
from holdfast.kit.errors import InvalidField, Violation
from holdfast.kit.telemetry.span import is_traceparent
from holdfast.ledger.commit_value import CommitItem, Effect, Happened, Record
from holdfast.ledger.domain.commit import Charge
from holdfast.ledger.id import ledger_id
from holdfast.v1.checkpoint_pb2 import Commit, EffectIntent, StepRecord
from holdfast.v1.run_pb2 import Usage
from holdfast.v1.transcript_pb2 import STEP_KIND_TOOL, StepKind

Violations = list[Violation]
Call = tuple[int, int, int, int]

MAX_KEY: Final = 1024
"""Bytes of a step's key or a scope."""
MAX_NAME: Final = 255
"""Bytes of a destination, an idempotency key, an ordering key."""
MAX_CONSUMED: Final = 1000
MAX_STEPS: Final = 100_000
MAX_TOKENS: Final = 1_000_000_000
MAX_CONTEXT: Final = 10_000_000
_SHA256: Final = 32
_KINDS: Final = frozenset(StepKind.values()) - {0}


def item_of(commit: Commit) -> CommitItem:
    """Read a commit. Raises `InvalidField` with every violation, or `NotYetAvailable` for a park."""
    wrong: Violations = []
    run_id = uuid_of(commit.run_id, "run_id", wrong)
    epoch, number = commit.epoch, commit.number
    if epoch < 1:
        wrong.append(Violation("epoch", "must be at least 1"))
    if number < 1:
        wrong.append(Violation("number", "must be at least 1"))
    records: list[Record] = []
    calls: list[Call] = []
    for at, step in enumerate(commit.steps):
        _check_step(step, at, wrong)
        calls.append(_call(step.usage, step, f"steps[{at}].usage", wrong))
        records.append(Record(step.key, step.SerializeToString()))
    if commit.HasField("usage"):
        calls.append(_call(commit.usage, None, "usage", wrong))
    happened = _happened(commit, wrong)
    effects = [_effect(effect, at, wrong) for at, effect in enumerate(commit.effects)]
    move = move_of(commit, wrong)
    session = session_of(commit.session, move, wrong) if commit.HasField("session") else None
    undo = undo_of(commit.compensation, wrong) if commit.HasField("compensation") else None
    consumed = _consumed(commit, wrong) if commit.consumed_signal_ids else ()
    if wrong:
        raise InvalidField("The commit is malformed.", violations=wrong)
    traceparent, correlation_id = commit.traceparent, commit.correlation_id
    return CommitItem(
        run_id=run_id,
        epoch=epoch,
        number=number,
        records=records,
        charge=Charge.of(calls),
        happened=happened,
        effects=effects,
        move=move,
        session=session,
        handoff=commit.handoff,
        consumed=consumed,
        undo=undo,
        restarts=commit.restarts,
        traceparent=traceparent if is_traceparent(traceparent) else "",
        correlation_id=correlation_id if len(correlation_id) <= MAX_NAME else "",
    )


def charge_of(step: StepRecord) -> Call:
    """Return what a record that is stored was charged: steps, tools, tokens, context."""
    return _call(step.usage, step, "usage", [])


def uuid_of(text: str, field: str, wrong: Violations) -> uuid.UUID:
    """Read a UUID in its 36 characters; anything else is a violation (and comes back as the nil UUID)."""
    if len(text) == 36:  # noqa: PLR2004 - of all the forms that are read, the one with hyphens
        try:
            return ledger_id(text)
        except ValueError:
            pass
    wrong.append(Violation(field, "must be a UUID"))
    return uuid.UUID(int=0)


def check_text(text: str, field: str, wrong: Violations, *, most: int, least: int = 1) -> None:
    """Check that a text has so many bytes and no NUL, which PostgreSQL cannot store."""
    size = len(text) if text.isascii() else len(text.encode())
    if not least <= size <= most:
        wrong.append(Violation(field, f"must be {least} to {most} bytes"))
    elif "\0" in text:
        wrong.append(Violation(field, "must not contain NUL"))


def _check_step(step: StepRecord, at: int, wrong: Violations) -> None:
    check_text(step.key, f"steps[{at}].key", wrong, most=MAX_KEY)
    if step.HasField("interruption") and not step.HasField("failure"):
        wrong.append(Violation(f"steps[{at}].interruption", "must come with a failure"))
    if step.kind not in _KINDS:
        wrong.append(Violation(f"steps[{at}].kind", "must be a kind of step"))
    if len(step.fingerprint) != _SHA256:
        wrong.append(Violation(f"steps[{at}].fingerprint", "must be the 32 bytes of a SHA-256"))
    outcomes = bool(step.output) + step.HasField("failure")
    if outcomes != (0 if step.intent else 1):
        wanted = "an intent has neither" if step.intent else "must be set, or the other, and not both"
        wrong.append(Violation(f"steps[{at}].output|failure", wanted))
    if step.attempts < 0:
        wrong.append(Violation(f"steps[{at}].attempts", "must not be negative"))


def _call(usage: Usage, step: StepRecord | None, field: str, wrong: Violations) -> Call:
    """Return what is charged; a record is one step, and of a tool call one tool, whatever the runner says."""
    steps, tools, tokens, context = usage.steps, usage.tools, usage.tokens, usage.context
    if not (
        0 <= steps <= MAX_STEPS
        and 0 <= tools <= MAX_STEPS
        and 0 <= tokens <= MAX_TOKENS
        and 0 <= context <= MAX_CONTEXT
    ):
        wrong.append(Violation(field, "must not be negative, nor more than any budget"))
    if step is not None and not step.intent:
        steps = steps or 1
        if step.kind == STEP_KIND_TOOL:
            tools = tools or 1
    return steps, tools, tokens, context


def _happened(commit: Commit, wrong: Violations) -> Happened | None:
    batch = commit.events
    events = batch.events
    if not events:
        if commit.emitted:
            wrong.append(Violation("emitted", "must be empty without events"))
        return None
    run_id, epoch = commit.run_id, commit.epoch
    first = expected = events[0].sequence
    if first < 1:
        wrong.append(Violation("events.events[0].sequence", "must be at least 1"))
    for at, event in enumerate(events):
        if event.sequence != expected:
            wrong.append(Violation(f"events.events[{at}].sequence", f"must be {expected}"))
            break
        if event.run_id != run_id or event.epoch != epoch:
            wrong.append(Violation(f"events.events[{at}]", "must carry the commit's run_id and epoch"))
            break
        expected += 1
    emitted = _emitted(commit, wrong) if commit.emitted else None
    return Happened(first, expected - 1, batch.SerializeToString(), emitted)


def _emitted(commit: Commit, wrong: Violations) -> str:
    counts: dict[str, int] = dict(commit.emitted)
    for scope, count in counts.items():
        check_text(scope, "emitted", wrong, most=MAX_KEY + 1, least=0)  # a step's key has a mark
        if count < 0:
            wrong.append(Violation("emitted", "must not be negative"))
    return json.dumps(counts)


def _consumed(commit: Commit, wrong: Violations) -> tuple[str, ...]:
    ids = tuple(commit.consumed_signal_ids)
    if len(ids) > MAX_CONSUMED:
        wrong.append(Violation("consumed_signal_ids", f"must be at most {MAX_CONSUMED:,}"))
    for at, signal_id in enumerate(ids[:MAX_CONSUMED]):
        check_text(signal_id, f"consumed_signal_ids[{at}]", wrong, most=MAX_NAME)
    return ids


def _effect(effect: EffectIntent, at: int, wrong: Violations) -> Effect:
    field = f"effects[{at}]"
    effect_id = uuid_of(effect.effect_id, f"{field}.effect_id", wrong)
    check_text(effect.destination, f"{field}.destination", wrong, most=MAX_NAME)
    check_text(effect.idempotency_key, f"{field}.idempotency_key", wrong, most=MAX_NAME)
    check_text(effect.ordering_key, f"{field}.ordering_key", wrong, most=MAX_NAME, least=0)
    try:
        json.loads(effect.body)
    except (ValueError, RecursionError):
        wrong.append(Violation(f"{field}.body", "must be JSON"))
    not_before: Any = None
    if effect.HasField("not_before"):
        try:
            not_before = effect.not_before.ToDatetime(tzinfo=UTC)
        except (ValueError, OverflowError):
            wrong.append(Violation(f"{field}.not_before", "must be a time"))
    return Effect(
        effect_id, effect.destination, effect.idempotency_key, effect.body, effect.ordering_key, not_before
    )
