"""What happens in a run beside its words, in a few words each; what goes without saying is left out."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from holdfast.cli.output import plain
from holdfast.client import Event

LONGEST: Final = 200
"""Characters of arguments and results that are shown."""

Data = Mapping[str, Any]


def line_of(event: Event, *, tools: bool = True) -> str:
    """Return the line of an event; empty if there is nothing to say, or if tools are hidden."""
    if not tools and event.kind.startswith("tool_"):
        return ""
    say = _LINES.get(event.kind)
    return say(event.data) if say is not None else ""


def end_lines(outcome: Data) -> list[str]:
    """Return why a run ended as it did, if not well."""
    lines = []
    if outcome.get("exhausted") not in (None, "UNSPECIFIED"):
        lines.append(f"out of {outcome['exhausted']}: this is what was managed")
    if failure := outcome.get("failure"):
        step = f" in step {failure['step']}" if failure.get("step") else ""
        lines.append(f"{failure.get('reason')}{step}: {failure.get('message')}")
    return lines


def cut(value: Any) -> str:
    """Return a value on one line, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False, sort_keys=True)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _started(data: Data) -> str:
    replayed = data.get("replayed_steps")
    return f"resumed, {replayed} steps replayed" if replayed else ""


def _finished(data: Data) -> str:
    if failure := data.get("failure"):
        return f"✗ {data.get('key')}: {failure.get('message')}"
    if data.get("kind") == "TOOL":
        return ""  # what it returned has been told
    return f"✓ {data.get('key')} ({float(data.get('duration') or 0):.1f} s)"


def _failed(data: Data) -> str:
    failure = data.get("failure") or {}
    pause = float(data.get("retry_in") or 0)
    return f"{data.get('key')} failed ({failure.get('message')}), again in {pause:.1f} s"


def _requeued(data: Data) -> str:
    failure = data.get("failure")
    return (
        f"back in the queue: {failure.get('message') or failure.get('reason')}" if failure else "queued again"
    )


def _degraded(data: Data) -> str:
    done = f"▾ {data.get('rung')}"
    if not data.get("limit") or data.get("dimension") == "CONTEXT":
        return done  # another model is asked, or messages were left out: nothing is spent
    return f"{done}: {data.get('used')} of {data.get('limit')} {data.get('dimension')} are spent"


def _handed_off(data: Data) -> str:
    run_id = data.get("run_id")
    return f"this goes on in the background; follow it with `holdfast runs watch {run_id}`"


def _interrupted(data: Data) -> str:
    return "the agent was interrupted and has read it" if data.get("interrupted") else "the agent has read it"


_LINES: Final[Mapping[str, Callable[[Data], str]]] = {
    "started": _started,
    "step_finished": _finished,
    "step_failed": _failed,
    "tool_called": lambda data: f"→ {data.get('tool')}({cut(data.get('arguments'))})",
    "tool_returned": lambda data: f"← {data.get('tool')}: {cut(data.get('result'))}",
    "effect_staged": lambda data: f"sends to {data.get('destination')}",
    "degraded": _degraded,
    "parked": lambda data: f"waits for {', '.join(data.get('keys') or ['a signal'])}",
    "requeued": _requeued,
    "compensating": lambda data: f"takes back what was done: {data['cause'].get('message')}",
    "handed_off": _handed_off,
    "input_received": _interrupted,
    "approval_requested": lambda data: f"asks for approval {data.get('approval_id')} ({data.get('step')})",
    "child_spawned": lambda data: f"starts {data.get('intent')} as {data.get('run_id')}",
    "child_ended": lambda data: f"hears of {data.get('run_id')}: it is {data.get('status')}",
    "cancel_requested": lambda data: f"is asked to stop: {data.get('reason') or 'no reason given'}",
}
