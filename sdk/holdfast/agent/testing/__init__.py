"""Tests agents in memory: a clock that jumps, models and people that are scripted, runners that die.

    result = Lab(app).run("triage", {"ticket": 7}, model=Script("Look it up.", "Dear Ada, …"))
    assert result.status == "SUCCEEDED"

    crash_everywhere(app, "triage", {"ticket": 7}, model=Script("Look it up.", "Dear Ada, …"))

Needs nothing but the SDK: no server, no database, no test framework.
"""

from holdfast.agent.testing.crash import crash_everywhere, crash_everywhere_async
from holdfast.agent.testing.lab import Lab
from holdfast.agent.testing.result import Result, Sent, Taken
from holdfast.agent.testing.scene import (
    AMPLE,
    BEGIN,
    Conditions,
    Kill,
    Scene,
    Signal,
    Verdict,
    approve,
    deny,
    interrupt,
)
from holdfast.agent.testing.script import (
    Answer,
    Script,
    broken,
    refused,
    reply,
    tool_call,
    tool_calls,
    unavailable,
)

__all__ = [
    "AMPLE",
    "BEGIN",
    "Answer",
    "Conditions",
    "Kill",
    "Lab",
    "Result",
    "Scene",
    "Script",
    "Sent",
    "Signal",
    "Taken",
    "Verdict",
    "approve",
    "broken",
    "crash_everywhere",
    "crash_everywhere_async",
    "deny",
    "interrupt",
    "refused",
    "reply",
    "tool_call",
    "tool_calls",
    "unavailable",
]
