"""What the stand-in model says, derived from the request alone: a plan, calls of tools, a drafted answer.

- no tools offered, no results yet: a plan as text
- tools offered, no results yet: calls of `lookup_customer` and `search_articles` where offered (else of the
  first tool offered), with the plan as text before them unless the conversation already has one
- results of tools present, or a list of facts (`- …`) given after the plan: a draft that quotes them
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from examples.standins.chat_protocol import Answer, ChatRequest

KNOWN_TOOLS = ("lookup_customer", "search_articles")
EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
CUSTOMER = re.compile(r"\b(?:cus|cust|customer|c)[-_#]\w+", re.IGNORECASE)
SUBJECT = re.compile(
    r"""(?:"subject"\s*:\s*"([^"]+)"|^\s*subject\s*:\s*(.+)$)""", re.IGNORECASE | re.MULTILINE
)


def triage(request: ChatRequest) -> Answer:
    """Answer as a patient support engineer would, the same request always in the same words."""
    ticket = _ticket(request.messages)
    subject = _subject(ticket)
    results = _results_since_the_ticket(request.messages) or _facts_since_the_plan(request.messages)
    if results:
        return Answer(_draft(subject, results))
    calls = tuple((name, _arguments(request.tools[name], ticket, subject)) for name in _chosen(request.tools))
    has_plan = any(message["role"] == "assistant" for message in request.messages)
    return Answer("" if calls and has_plan else _plan(subject), calls)


def _ticket(messages: list[dict[str, Any]]) -> str:
    asked = [_text(message.get("content")) for message in messages if message["role"] == "user"]
    return asked[0] if asked else _text(messages[-1].get("content"))


def _text(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def _subject(ticket: str) -> str:
    found = SUBJECT.search(ticket)
    if found:
        return (found.group(1) or found.group(2)).strip()
    lines = ticket.strip().splitlines()
    return lines[0][:80] if lines else "an empty ticket"


def _results_since_the_ticket(messages: list[dict[str, Any]]) -> list[str]:
    return [_text(message.get("content")) for message in messages if message["role"] == "tool"]


def _facts_since_the_plan(messages: list[dict[str, Any]]) -> list[str]:
    plans = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    after = messages[plans[0] + 1 :] if plans else []
    told = "\n".join(_text(message.get("content")) for message in after if message["role"] == "user")
    return [line.removeprefix("- ") for line in told.splitlines() if line.startswith("- ")]


def _chosen(tools: Mapping[str, Any]) -> tuple[str, ...]:
    known = tuple(name for name in KNOWN_TOOLS if name in tools)
    return known or tuple(tools)[:1]


def _plan(subject: str) -> str:
    return (
        f"Plan for “{subject}”: first look up who the customer is and which plan they are on; "
        "then search the help articles for the symptom they describe; then draft an answer that "
        "says what happened, what we did, and what they can do now."
    )


def _draft(subject: str, results: list[str]) -> str:
    facts = "; ".join(
        f"({number}) {' '.join(result.split())[:160].rstrip('.')}" for number, result in enumerate(results, 1)
    )
    return (
        f"Hello, thank you for writing to us about “{subject}”. We have looked into it and found: {facts}. "
        "We have noted this on your account. Please try again with the steps above; if it still fails, "
        "answer this message and a colleague will call you back within one working day. "
        "Kind regards, the support team."
    )


def _arguments(schema: Mapping[str, Any], ticket: str, subject: str) -> dict[str, Any]:
    """Fill the arguments a tool requires (all it has, when it requires none) from the ticket."""
    properties: Mapping[str, Any] = schema.get("properties") or {}
    wanted = schema.get("required") or list(properties)
    return {name: _value(name, properties.get(name) or {}, ticket, subject) for name in wanted}


def _value(name: str, schema: Mapping[str, Any], ticket: str, subject: str) -> Any:
    if schema.get("enum"):
        return schema["enum"][0]
    simple: dict[str, Any] = {
        "integer": 1,
        "number": 1.0,
        "boolean": False,
        "array": [],
        "object": {},
        "null": None,
    }
    if schema.get("type") in simple:
        return simple[schema["type"]]
    if "mail" in name:
        return _first(EMAIL, ticket) or "unknown@example.com"
    if "customer" in name or name.endswith("id"):
        return _field(name, ticket) or _first(CUSTOMER, ticket) or _first(EMAIL, ticket) or "unknown"
    return subject


def _field(name: str, ticket: str) -> str | None:
    """Return the field of this name when the ticket is a JSON object."""
    try:
        document = json.loads(ticket[ticket.index("{") : ticket.rindex("}") + 1])
    except ValueError:
        return None
    value = document.get(name)
    return value if isinstance(value, str) else None


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found.group(0) if found else None
