"""Events are handed to the Invoker together, and each has a fate: it is a run, it is set aside, or not now.

What can never be a run, by no fault of its sender's, is set aside where people list it and send it again:
`holdfast events refused`. It holds nobody up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.client import Aside, Client, HoldfastError, Invocation, Published, Retries
from holdfast.client.errors import (
    Forbidden,
    IdempotencyKeyReused,
    Internal,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from holdfast.edge.fault import NotNow
from holdfast.edge.place import Place
from holdfast.edge.secret import SecretMissingError, Secrets
from holdfast.edge.settings import EdgeSettings
from holdfast.edge.source import Mapped
from holdfast.kit import crash_point
from holdfast.kit.telemetry.logs import logger

_log: Final = logger("intake")

# Whoever sent it waits for the answer, and sends it again.
_RETRIES: Final = Retries(attempts=3, first_pause=0.1, longest_pause=1.0, patience=2.0)
_SOON_S: Final = 2.0
_LATER_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Letter:
    """An event on its way: the envelope, or why there is none, and what was received."""

    invocation: Invocation
    body: bytes = b""
    refusal: HoldfastError | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """The event is durable: as a run, perhaps an earlier delivery's, or aside."""

    run_id: str = ""
    duplicate: bool = False
    aside: bool = False


class Broken(NotNow):
    """The Invoker failed at this event: if it does so again and again, the event is to blame."""


Fate = Taken | NotNow


class Intake:
    """The way to the Invoker, as each source's tenant; ended by `close`."""

    def __init__(self, settings: EdgeSettings, secrets: Secrets) -> None:
        self._settings = settings
        self._codec = settings.codec()
        self._secrets = secrets
        self._clients: dict[tuple[str, str], Client] = {}

    async def take(self, source: Mapped, letters: Sequence[Letter]) -> list[Fate]:
        """Hand events over; their fates, in order. What is `Taken` is durable."""
        crash_point.reach("edge.before_take")
        fates = await self._take(source, letters)
        crash_point.reach("edge.after_take")
        return fates

    async def _take(self, source: Mapped, letters: Sequence[Letter]) -> list[Fate]:
        fates: dict[int, Fate] = {}
        refused = {
            index: letter.refusal for index, letter in enumerate(letters) if letter.refusal is not None
        }
        whole = [index for index in range(len(letters)) if index not in refused]
        try:
            client = self._client(source)
            answers = await client.publish([letters[index].invocation for index in whole]) if whole else []
        except (HoldfastError, SecretMissingError) as error:
            if isinstance(error, Internal) and (middle := len(letters) // 2):  # whichever it was fails alone
                return await self._take(source, letters[:middle]) + await self._take(source, letters[middle:])
            return [_not_now(source, error)] * len(letters)
        for index, answer in zip(whole, answers, strict=True):
            fate = _fate(source, answer)
            if isinstance(fate, HoldfastError):
                refused[index] = fate
            else:
                fates[index] = fate
        fates |= await self._set_aside(source, client, letters, refused)
        return [fates[index] for index in range(len(letters))]

    async def set_aside(self, source: Mapped, letters: Sequence[Letter]) -> list[Fate]:
        """Keep events that have a refusal where people find them. Repeatable."""
        try:
            client = self._client(source)
        except SecretMissingError as error:
            return [_not_now(source, error)] * len(letters)
        refused = {
            index: letter.refusal for index, letter in enumerate(letters) if letter.refusal is not None
        }
        fates = await self._set_aside(source, client, letters, refused)
        return [fates[index] for index in range(len(letters))]

    async def close(self) -> None:
        """Close all connections."""
        while self._clients:
            _, client = self._clients.popitem()
            await client.close()

    async def _set_aside(
        self,
        source: Mapped,
        client: Client,
        letters: Sequence[Letter],
        refused: dict[int, HoldfastError],
    ) -> dict[int, Fate]:
        if not refused:
            return {}
        events = [
            Aside(letters[index].invocation, why, letters[index].body if letters[index].refusal else b"")
            for index, why in sorted(refused.items())
        ]
        try:
            await client.refused_events.set_aside(source.name, events)
        except HoldfastError as error:
            return dict.fromkeys(refused, _not_now(source, error))
        for event in events:
            _log.warning(
                "event set aside",
                source=source.name,
                key=event.event.idempotency_key,
                reason=event.refusal.reason,
            )
        return dict.fromkeys(refused, Taken(aside=True))

    def _client(self, source: Mapped) -> Client:
        """Return the client of a tenant, showing the token as it is now. Raises `SecretMissingError`."""
        token = self._secrets.text(source.token) if source.token else ""
        place = (source.tenant, source.token)
        client = self._clients.get(place)
        if client is None:
            client = self._clients[place] = Client(
                self._settings.invoker_address,
                tenant=source.tenant,
                tls=self._settings.tls,
                retries=_RETRIES,
                timeout=self._settings.accept_timeout,
                codec=self._codec,
            )
        client.show_token(token)
        return client


def _fate(source: Mapped, answer: Published) -> Fate | HoldfastError:
    """Return the fate of an event, or why it has to be set aside."""
    match answer.refusal:
        case None:
            return Taken(answer.run_id, answer.duplicate)
        case IdempotencyKeyReused() if not isinstance(source.key, Place):
            # The sender's own id: some fill in more when they deliver it again.
            return Taken(duplicate=True)
        case Internal() | ResourceExhausted() | Unavailable() as error:
            return _not_now(source, error)
        case HoldfastError() as error:
            return error
        case error:
            raise error


def _not_now(source: Mapped, error: HoldfastError | SecretMissingError) -> NotNow:
    if isinstance(error, ResourceExhausted):
        return NotNow("Too much is waiting.", after=_later(error, _SOON_S), pressed=True)
    if isinstance(error, SecretMissingError | Unauthenticated | Forbidden):
        _log.error("the source may not speak for its tenant", source=source.name, error_text=str(error))
        return NotNow("The source is not set up.", after=_LATER_S)
    _log.warning("events not taken", source=source.name, code=error.code, reason=error.reason)
    if isinstance(error, Internal):
        return Broken("The event could not be handled.", after=_later(error, _SOON_S))
    return NotNow("Events cannot be taken now.", after=_later(error, _SOON_S))


def _later(error: HoldfastError, usual: float) -> float:
    return max(1.0, error.retry_after or usual)
