"""What agent authors import: an agent is an async function whose recorded steps never run twice."""

from holdfast.agent.app import Agent, App
from holdfast.agent.budget import Budget, Dimension, Limits, Usage
from holdfast.agent.error import (
    BudgetExhausted,
    Failure,
    Interrupted,
    InvalidPayload,
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
from holdfast.agent.run import Run
from holdfast.agent.step import Policy, Step, step

__all__ = [
    "Agent",
    "App",
    "Budget",
    "BudgetExhausted",
    "Dimension",
    "Failure",
    "Interrupted",
    "InvalidPayload",
    "Limits",
    "Message",
    "ModelEndpoint",
    "ModelRefused",
    "ModelReply",
    "ModelSettings",
    "ModelUnavailable",
    "NotRecordable",
    "NothingReceived",
    "Permanent",
    "Policy",
    "Run",
    "RunCancelled",
    "RunStopped",
    "Step",
    "StepFailed",
    "ToolCall",
    "ToolSpec",
    "Usage",
    "step",
    "tool_arguments",
]
