"""A decision said in a conversation: the ledger takes it, the run hears of it, and so do those who watch."""

from collections.abc import Callable
from uuid import UUID

from holdfast.invoker.envelope import Violations
from holdfast.invoker.hints import Hints
from holdfast.kit.db import Database
from holdfast.kit.errors import ApprovalDecided, ApprovalNotFound, Fault, InvalidField, NotAnApprover
from holdfast.kit.rpc.person import Caller
from holdfast.ledger import approval_vote
from holdfast.ledger.domain.approval import Person, Verdict
from holdfast.ledger.notice import APPROVAL, MAIL, Notices
from holdfast.v1 import invoker_service_pb2 as pb

MAX_REASON_BYTES = 1000
_REFUSALS = (ApprovalDecided, ApprovalNotFound, NotAnApprover, InvalidField)
"""What is wrong with one decision, and no reason to end the conversation."""


class Deciding:
    """Takes the decisions of those who talk with a run."""

    def __init__(self, db: Database, hints: Hints, notices: Notices) -> None:
        self._db = db
        self._hints = hints
        self._notices = notices

    async def decide(
        self, tenant: str, run_id: UUID, who: Callable[[], Caller], asked: pb.ConverseDecide
    ) -> pb.ConverseResponse:
        """Decide an approval of the run, and return the answer; `who` raises InvalidField for nobody."""
        try:
            await self._decide(tenant, run_id, who(), asked)
        except _REFUSALS as fault:
            return _refused(run_id, asked, fault)
        answer = pb.ConverseDecided(run_id=str(run_id), approval_id=asked.approval_id)
        return pb.ConverseResponse(decided=answer)

    async def _decide(self, tenant: str, run_id: UUID, caller: Caller, asked: pb.ConverseDecide) -> None:
        changed = await approval_vote.decide(
            self._db,
            tenant,
            UUID(asked.approval_id),
            Person(caller.user, caller.groups, caller.roles),
            Verdict.APPROVE if asked.approved else Verdict.DENY,
            reason=asked.reason,
            run_id=run_id,
        )
        self._hints.queued(changed.pools)
        self._notices.send(MAIL, changed.decided)
        if changed.tenant:
            self._notices.send(APPROVAL, (changed.tenant,))


def check_decide(asked: pb.ConverseDecide, wrong: Violations) -> None:
    """Check a decision; `wrong` gets what is wrong with it."""
    wrong.run_id("approval_id", asked.approval_id)
    wrong.text("reason", asked.reason, limit=MAX_REASON_BYTES)


def _refused(run_id: UUID, asked: pb.ConverseDecide, fault: Fault) -> pb.ConverseResponse:
    return pb.ConverseResponse(
        refused=pb.ConverseRefused(
            run_id=str(run_id),
            approval_id=asked.approval_id,
            reason=fault.reason,
            message=fault.message,
            metadata=fault.facts,
        )
    )
