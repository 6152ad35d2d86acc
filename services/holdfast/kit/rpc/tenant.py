"""Every call belongs to one tenant: its credential's, or without identity the one its metadata names."""

from contextvars import ContextVar
from typing import Any, Final

from holdfast.kit.errors import InvalidField, TenantMismatch, Violation
from holdfast.kit.rpc.layer import EXEMPT, Behaviour, Context, Layer

KEY: Final = "holdfast-tenant"
DEFAULT: Final = "default"
LONGEST: Final = 255

_tenant: ContextVar[str] = ContextVar("holdfast_tenant", default=DEFAULT)


def current_tenant() -> str:
    """Return the tenant of the RPC that this task serves; `default` outside of one."""
    return _tenant.get()


def be_tenant(tenant: str) -> None:
    """Take this task's call for one of `tenant`."""
    _tenant.set(tenant)


def agree(claimed: str) -> str:
    """Return the tenant of the call if a request's `caller.tenant` says the same or nothing.

    Raises `TenantMismatch` otherwise.
    """
    tenant = _tenant.get()
    if claimed in ("", tenant):
        return tenant
    raise TenantMismatch("caller.tenant is not the tenant of this call.")


def valid_tenant(name: str | bytes, field: str = f"metadata.{KEY}") -> str:
    """Return `name` if it can name a tenant: 1 to 255 bytes, printable, no space at its ends."""
    text = name if isinstance(name, str) else name.decode(errors="replace")
    size = len(text.encode(errors="replace"))
    if not 0 < size <= LONGEST or not text.isprintable() or text != text.strip() or "\ufffd" in text:
        wrong = Violation(field, f"must be 1 to {LONGEST} bytes of printable text")
        raise InvalidField("The tenant's name is malformed.", violations=[wrong])
    return text


class TenantLayer(Layer):
    """Takes the tenant from the metadata key `holdfast-tenant`; absent is `default`, two are refused."""

    def around(self, method: str, inner: Behaviour) -> Behaviour:
        """Set the tenant in the handler's own context and await `inner`."""
        if method.startswith(EXEMPT):
            return inner

        async def of_tenant(request: Any, context: Context) -> Any:
            be_tenant(named_tenant(context) or DEFAULT)  # the task is the call's own: nothing to reset
            return await inner(request, context)

        return of_tenant


def named_tenant(context: Context) -> str:
    """Return the tenant that a call's metadata names, empty if none. Raises `InvalidField`."""
    tenant: str | None = None
    for key, value in context.invocation_metadata() or ():
        if key == KEY:
            name = valid_tenant(value)
            if tenant not in (None, name):
                wrong = Violation(f"metadata.{KEY}", "must be given once")
                raise InvalidField("The call names two tenants.", violations=[wrong])
            tenant = name
    return tenant or ""
