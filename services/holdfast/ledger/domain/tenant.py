"""What a tenant is allowed, and what the platform allows where nothing is said."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.ledger.domain.budget import Limits


@dataclass(frozen=True, slots=True)
class Terms:
    """A tenant's limits, named as the columns of its row; as it stands here, the platform's defaults.

    `rate` is in runs a second. A `burst` of 0 follows the rate: one second's worth, at least 1. The five
    limits of a budget are what a run's missing ones become. `alert_destination` hears of runs and effects
    that are set aside; empty: nobody. `intent_caps` and `user_caps` are JSON, by whom they are for;
    `user_cap` is each other user's. None where only the tenant's cap holds. `keep_…_s` is for how many
    seconds after its end a run of that shape is kept, None for ever.
    """

    weight: int = 1
    max_in_flight: int = 1000
    max_queued: int = 1_000_000
    rate: float = 100_000.0
    burst: int = 0
    deadline_ms: int = 600_000
    max_steps: int = 1000
    max_tools: int = 1000
    max_tokens: int = 1_000_000
    max_context: int = 128_000
    alert_destination: str = ""
    intent_caps: str | None = None
    keep_service_s: float | None = None
    keep_worker_s: float | None = None
    keep_workflow_s: float | None = None
    keep_batch_s: float | None = None
    user_cap: int | None = None
    user_caps: str | None = None

    @property
    def by_intent(self) -> dict[str, int]:
        """The most runs in flight of each intent that has a cap of its own."""
        return _caps(self.intent_caps)

    @property
    def by_user(self) -> dict[str, int]:
        """The most runs in flight of each user who has a cap of his own."""
        return _caps(self.user_caps)

    @property
    def caps_users(self) -> bool:
        """Whether any user has a cap."""
        return self.user_cap is not None or self.user_caps is not None

    @property
    def room(self) -> int:
        """How many runs may come at once after a pause."""
        return self.burst or max(1, int(self.rate))

    @property
    def budget(self) -> Limits:
        """The limits of a run that asks for none."""
        return Limits(self.deadline_ms, self.max_steps, self.max_tools, self.max_tokens, self.max_context)


def intent_caps(caps: Mapping[str, int]) -> str | None:
    """Return caps of intents as `Terms` has them."""
    return json.dumps(dict(caps), sort_keys=True) if caps else None


def user_caps(caps: Mapping[str, int]) -> str | None:
    """Return caps of users as `Terms` has them."""
    return intent_caps(caps)


def _caps(text: str | None) -> dict[str, int]:
    return dict(json.loads(text)) if text is not None else {}
