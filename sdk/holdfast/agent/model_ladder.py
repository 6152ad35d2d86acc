"""Several models, the one to prefer first: whoever cannot answer is passed over for the next.

asked ──(answers)──▶ done
  │ ──(cannot answer now, `tries` times)──▶ the next model is asked, at once
  └ ──(its breaker is open)──────────────▶ the next model is asked, and no try is spent
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from holdfast.agent.model import Message, ModelEndpoint, ModelSettings, ToolSpec
from holdfast.agent.model_breaker import ModelBreaker
from holdfast.agent.model_error import ModelUnavailable
from holdfast.agent.model_tokens import TokenEstimator, estimate_tokens

TRIES: Final = 2
LONGEST_WAIT: Final = 30.0  # seconds
ESTIMATE: Final = estimate_tokens
"""The default estimator, under a name that no method has."""
CHEAPEST: Final = "cheapest"
"""Names the last model of a ladder, whatever it is called."""


class Models:
    """A ladder of models by name, best first: `Models(large=ModelEndpoint(…), small=ModelEndpoint(…))`.

    `run.model(…, model="small")` and the rungs of an agent's degradation name them. Each has a breaker of its
    own. Shared by all runs of a runner. Raises ValueError without any model.
    """

    def __init__(self, **models: ModelEndpoint) -> None:
        if not models:
            raise ValueError("A ladder needs at least one model.")
        self._models = models
        self._breakers = {name: ModelBreaker() for name in models}

    def __repr__(self) -> str:
        return f"Models({', '.join(self._models)})"

    @property
    def names(self) -> tuple[str, ...]:
        """The models' names, best first."""
        return tuple(self._models)

    def estimate_tokens(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
        """Return the tokens a call will read, by the estimator of the first model."""
        return next(iter(self._models.values())).estimate_tokens(messages, tools)

    def window(self, named: str | None = None) -> int:
        """Return how many tokens the model holds that a call of that name asks first; 0 if not known."""
        return self._models[self.climb(named).name].window

    @classmethod
    def from_environment(cls, estimate: TokenEstimator = ESTIMATE) -> "Models":
        """Make the ladder that OPENAI_MODEL lists, divided by commas, at OPENAI_BASE_URL; one is enough.

        `estimate` counts the tokens of a call before it is made. Raises ValueError when no model is
        configured.
        """
        settings = ModelSettings.from_environment()
        return cls(
            **{
                name: ModelEndpoint(settings.base_url, settings.api_key, name, estimate=estimate)
                for name in settings.models
            }
        )

    async def close(self) -> None:
        """Close idle connections. Harmless when repeated."""
        for model in self._models.values():
            await model.close()

    def climb(self, named: str | None = None) -> "Climb":
        """Begin a call: at the model of that name (CHEAPEST is the last one), at the first one without.

        A name that is none of the ladder's is asked of its first model's endpoint, as the provider's word.
        """
        names = list(self._models)
        if named == CHEAPEST:
            named = names[-1]
        if named in self._models:
            return Climb(self._models, self._breakers, names[names.index(named) :])
        return Climb(self._models, self._breakers, names, asked=named)


class Climb:
    """One call's way down the ladder, over all tries of its step."""

    def __init__(
        self,
        models: Mapping[str, ModelEndpoint],
        breakers: Mapping[str, ModelBreaker],
        names: list[str],
        asked: str | None = None,
    ) -> None:
        self.asked = asked
        """The model the call names itself, if the ladder does not have it."""
        self._models = models
        self._breakers = breakers
        self._names = names if asked is None else names[:1]
        self._at = 0
        self._tries = 0
        self._pass = 0

    @property
    def name(self) -> str:
        """The model asked now, or next."""
        return self._names[self._at]

    async def endpoint(self) -> ModelEndpoint:
        """Return the model to ask; while every breaker is open, wait for the first that lets a call through.

        One of `answered`, `failed` and `unsaid` must follow.
        """
        while True:
            for place in range(self._at, len(self._names)):
                admitted = self._breakers[self._names[place]].admit()
                if admitted:
                    self._pass = admitted
                    if place != self._at:
                        self._at, self._tries = place, 0
                    return self._models[self.name]
            self._at = self._tries = 0
            await asyncio.sleep(min(LONGEST_WAIT, *(self._breakers[name].wait for name in self._names)))

    def answered(self) -> None:
        """Note that the model answered, if only with a refusal."""
        self._breakers[self.name].answered(self._pass)

    def failed(self, error: ModelUnavailable) -> bool:
        """Note that the model could not answer; say whether another one is asked next."""
        self._breakers[self.name].failed(self._pass, error.retry_after)
        self._tries += 1
        if self._tries < TRIES or self._at + 1 == len(self._names):
            return False
        self._at += 1
        self._tries = 0
        return True

    def unsaid(self) -> None:
        """Note that the call was given up before anything was known."""
        self._breakers[self.name].unsaid(self._pass)
