"""Decides the gates of a run in the lab: as the scene has it, or by their timeout."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from holdfast.agent.approval import Opened
from holdfast.agent.testing.scene import BEGIN, Verdict
from holdfast.agent.wire import value
from holdfast.v1.approval_pb2 import ApprovalVerdict
from holdfast.v1.approval_service_pb2 import RequestApprovalRequest


class LabGates:
    """Stands for the Approval service; a gate stays open whatever becomes of the runner that asked."""

    def __init__(
        self, decisions: Mapping[str, Verdict | Sequence[Verdict]], send: Callable[[Any, str], None]
    ) -> None:
        """Take verdicts by the gates' names; of several the first is for the first gate of the name."""
        self._left = {
            name: [each] if isinstance(each, Verdict) else list(each) for name, each in decisions.items()
        }
        self._send = send
        self._open: dict[str, Opened] = {}

    async def request(self, asked: RequestApprovalRequest) -> Opened:
        """Open a gate, or find it; its decision is on its way from then on."""
        gate = self._open.get(asked.step)
        if gate is None:
            gate = Opened(f"approval-{len(self._open) + 1}", f"approval:{len(self._open) + 1}")
            self._open[asked.step] = gate
            self._decide(asked, gate.key)
            return gate
        return replace(gate, found=True)

    def _decide(self, asked: RequestApprovalRequest, key: str) -> None:
        loop = asyncio.get_running_loop()
        policy = asked.policy
        left = self._left.get(asked.step.rpartition("/")[2].partition("#")[0])
        verdict = left.pop(0) if left else None
        timeout = policy.timeout.ToTimedelta().total_seconds()
        if verdict is None or (timeout and verdict.after >= timeout):
            default = policy.default_decision
            name = ApprovalVerdict.Name(default) if default else ""
            status = {"APPROVE": "APPROVED", "DENY": "DENIED"}.get(name.rpartition("_")[2], "TIMED_OUT")
            verdict = Verdict(status, by=(), after=timeout)

        def decided() -> None:
            time = BEGIN + timedelta(seconds=loop.time())
            payload = value.read(asked.payload) if verdict.payload is None else verdict.payload
            letter = {
                "step": asked.step,
                "status": verdict.status,
                "deciders": list(verdict.by),
                "reason": verdict.reason,
                "payload": payload,
                "time": time.isoformat(),
            }
            self._send(letter, key)

        loop.call_later(verdict.after, decided)
