"""A call that counts is in the audit before it acts, and how it ended after it."""

from dataclasses import replace
from typing import Any, Final

from holdfast.kit.auth.access import Write
from holdfast.kit.auth.audit import Entry, subject_of
from holdfast.kit.auth.identity import current_identity
from holdfast.kit.auth.rule import RULES
from holdfast.kit.errors import Fault
from holdfast.kit.rpc.layer import Behaviour, Context, Layer
from holdfast.kit.rpc.person import USER
from holdfast.kit.rpc.tenant import current_tenant
from holdfast.kit.telemetry.logs import logger

_LONGEST: Final = 255
_log: Final = logger("audit")


class AuditLayer(Layer):
    """Writes the audit of the RPCs whose rule asks for it; belongs inside of the identity layer."""

    def __init__(self, write: Write | None) -> None:
        super().__init__()
        self._write = write

    def around(self, method: str, inner: Behaviour) -> Behaviour:
        """Write, await `inner`, write how it ended. What cannot be written is not done."""
        rule, write = RULES.get(method), self._write
        if write is None or rule is None or not rule.audited:
            return inner
        action = method.rpartition("/")[2]

        async def audited(request: Any, context: Context) -> Any:
            entry = Entry(*_who(context), action, subject_of(request))
            await write(entry)
            outcome = "CANCELLED"  # unless it comes to an end
            try:
                response = await inner(request, context)
                outcome = "OK"
            except Fault as fault:
                outcome = fault.status.value
                raise
            except Exception:
                outcome = "INTERNAL"
                raise
            finally:
                await _ended(write, replace(entry, outcome=outcome))
            return response

        return audited


def _who(context: Context) -> tuple[str, str, str]:
    identity = current_identity()
    if identity is not None:
        return current_tenant(), identity.user, identity.credential
    said = [value for key, value in context.invocation_metadata() or () if key == USER]
    user = said[0] if said and isinstance(said[0], str) else ""
    return current_tenant(), user[:_LONGEST].replace("\0", ""), ""


async def _ended(write: Write, entry: Entry) -> None:
    try:
        await write(entry)
    except Exception as error:  # noqa: BLE001 - the call has ended as it has
        _log.error("the end of a call is not in the audit", action=entry.action, error=error)
