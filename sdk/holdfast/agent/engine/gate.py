"""A gate as a step: opened before it waits, decided by a signal, the decision its record."""

import json
from typing import Any, Final

from holdfast.agent.approval import Gates
from holdfast.agent.engine.call import Call, Wait
from holdfast.agent.engine.mailbox import Mailbox
from holdfast.agent.engine.scope import Frame
from holdfast.agent.engine.transcript import Transcript
from holdfast.agent.engine.wait import ONCE, SIGNAL
from holdfast.agent.engine.waits import Waits
from holdfast.agent.wire import value
from holdfast.agent.wire.draft import WAIT
from holdfast.agent.wire.invocation import Invocation
from holdfast.v1.approval_pb2 import ApprovalPolicy
from holdfast.v1.approval_service_pb2 import RequestApprovalRequest

APPROVAL: Final = "approval:"
"""Begins the mailbox keys of decisions; nobody else can send under it."""


class Door:
    """Opens the gates of one run."""

    def __init__(
        self, invocation: Invocation, gates: Gates, mailbox: Mailbox, waits: Waits, transcript: Transcript
    ) -> None:
        self._invocation = invocation
        self._gates = gates
        self._mailbox = mailbox
        self._waits = waits
        self._transcript = transcript

    def call(self, name: str, title: str, payload: bytes, policy: ApprovalPolicy) -> Call:
        """Describe a gate. Its terms are not compared in a replay: those of an open gate stand."""

        async def prepare(step: str) -> None:
            key = self._decided(step)
            if key and self._waits.begun(step):  # all that was to be told was, with the wait's intent
                call.wait = Wait((key,))
                return
            asked = RequestApprovalRequest(
                run_id=self._invocation.run_id,
                epoch=self._invocation.epoch,
                step=step,
                title=title,
                policy=policy,
            )
            value.write(asked.payload, json.loads(payload))
            opened = await self._gates.request(asked)
            call.wait = Wait((opened.key,))
            # Found open though this step was never begun: its opener died before it could tell.
            if not (opened.found and self._waits.begun(step)):
                self._transcript.approval_requested(step, opened.approval_id, name)

        async def execute(_: str, frame: Frame) -> tuple[str, Any]:
            assert call.wait is not None  # it was prepared
            frame.received = await self._mailbox.receive(call.wait.keys[0])
            return frame.received.signal_id, json.loads(frame.received.payload)

        call = Call(
            name=name,
            kind=WAIT,
            input={"payload": json.loads(payload)},
            policy=ONCE,
            result=SIGNAL,
            execute=execute,
            prepare=prepare,
        )
        return call

    def _decided(self, step: str) -> str:
        """Return the mailbox key of a gate whose decision waits already, or nothing."""
        for signal in self._mailbox.waiting():
            if signal.key.startswith(APPROVAL) and json.loads(signal.payload).get("step") == step:
                return signal.key
        return ""
