"""The one source of truth: every change that must be atomic is one verb, one transaction."""

from holdfast.ledger.migrate import migrate
from holdfast.ledger.session_settings import SESSION_SETTINGS

__all__ = ["SESSION_SETTINGS", "migrate"]
