"""What agent authors import: an agent is an async function whose recorded steps never run twice."""

from holdfast.agent.app import Agent, App
from holdfast.agent.approval import Decision, Escalate, Remind
from holdfast.agent.budget import Budget, Dimension, Limits, Usage
from holdfast.agent.child import Child, ChildOutcome
from holdfast.agent.degradation import Rung
from holdfast.agent.error import (
    BudgetExhausted,
    ChildFailed,
    Failure,
    Interrupted,
    InvalidPayload,
    InvalidSession,
    NothingReceived,
    NotRecordable,
    Permanent,
    RunCancelled,
    RunStopped,
    StepFailed,
)
from holdfast.agent.model import (
    Message,
    ModelEndpoint,
    ModelRefused,
    ModelReply,
    ModelSettings,
    ModelUnavailable,
    ToolCall,
    ToolSpec,
    tool_arguments,
)
from holdfast.agent.model_ladder import CHEAPEST, Models
from holdfast.agent.run import Run
from holdfast.agent.step import Policy, Step, step
from holdfast.agent.tool_loop import Talk

__all__ = [
    "CHEAPEST",
    "Agent",
    "App",
    "Budget",
    "BudgetExhausted",
    "Child",
    "ChildFailed",
    "ChildOutcome",
    "Decision",
    "Dimension",
    "Escalate",
    "Failure",
    "Interrupted",
    "InvalidPayload",
    "InvalidSession",
    "Limits",
    "Message",
    "ModelEndpoint",
    "ModelRefused",
    "ModelReply",
    "ModelSettings",
    "ModelUnavailable",
    "Models",
    "NotRecordable",
    "NothingReceived",
    "Permanent",
    "Policy",
    "Remind",
    "Run",
    "RunCancelled",
    "RunStopped",
    "Rung",
    "Step",
    "StepFailed",
    "Talk",
    "ToolCall",
    "ToolSpec",
    "Usage",
    "step",
    "tool_arguments",
]
