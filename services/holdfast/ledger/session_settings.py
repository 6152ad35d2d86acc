"""Every connection of the verbs plans for lookups by index, whatever the statistics say at the moment."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

SESSION_SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "search_path": "holdfast",
        # A queue is empty one moment and long the next. A plan made for the empty table (scan it, hash it)
        # would be kept for the long one; no verb wants to read a whole table.
        "enable_seqscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        # The plan that a prepared statement keeps is the one to use from the first time on: what verbs look
        # up, they find by key, and planning anew for each call costs more than many a statement.
        "plan_cache_mode": "force_generic_plan",
        "jit": "off",
    }
)
"""Pass these as `server_settings` to `kit.db.Database.connect`."""
