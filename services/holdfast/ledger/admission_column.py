"""A new run as the columns that the statements of `admission_sql` unnest."""

import json
from uuid import UUID

from holdfast.ledger.domain.budget import Limits
from holdfast.ledger.values import Invocation


def asked(
    i: Invocation, pool: str, agent_version: str, runner_session: UUID | None, limits: Limits
) -> tuple[object, ...]:
    """Return the values that `sql.INSERT` and `sql.PLACE` have in common, in their order."""
    return (
        i.run_id,
        i.tenant,
        i.intent,
        i.shape,
        i.user,
        i.idempotency_key,
        i.correlation_id,
        i.session_id,
        i.lane,
        i.priority,
        json.dumps(i.labels, ensure_ascii=False) if i.labels else None,
        i.envelope,
        i.fingerprint,
        pool,
        i.max_attempts,
        agent_version,
        runner_session,
        limits.deadline_ms,
        limits.max_steps,
        limits.max_tools,
        limits.max_tokens,
        limits.max_context,
    )
