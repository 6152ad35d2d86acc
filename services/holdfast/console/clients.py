"""One client for each tenant and credential that looks, over shared settings; the longest idle ones go."""

from collections import OrderedDict
from typing import Final

from starlette.requests import Request

from holdfast.client import Client, Me
from holdfast.console.session import Session, session_of
from holdfast.console.settings import ConsoleSettings

_MOST: Final = 64


class Clients:
    """The clients that are open."""

    def __init__(self, settings: ConsoleSettings) -> None:
        self._settings = settings
        self._codec = settings.codec()
        self._open: OrderedDict[tuple[str, str], Client] = OrderedDict()

    def of(self, session: Session) -> Client:
        """Return the client of a session."""
        key = (session.tenant, session.credential)
        if key not in self._open:
            self._open[key] = Client(
                self._settings.invoker_address,
                tenant=session.tenant,
                token=session.credential,
                tls=self._settings.tls,
                dispatcher=self._settings.dispatcher_address,
                checkpoint=self._settings.checkpoint_address,
                approval=self._settings.approval_address,
                codec=self._codec,
            )
        self._open.move_to_end(key)
        return self._open[key]

    async def me(self, credential: str, tenant: str) -> Me:
        """Ask whom the platform takes a credential for. Raises `HoldfastError`."""
        at, tls = self._settings.invoker_address, self._settings.tls
        async with Client(at, tenant=tenant or None, token=credential, tls=tls) as client:
            return await client.access.me()

    async def tidy(self) -> None:
        """Close those that have not been asked for, where there are many."""
        while len(self._open) > _MOST:
            _, client = self._open.popitem(last=False)
            await client.close()

    async def close(self) -> None:
        """Close all."""
        while self._open:
            _, client = self._open.popitem()
            await client.close()


def client_of(request: Request) -> Client:
    """Return the client of who looks."""
    clients: Clients = request.app.state.clients
    return clients.of(session_of(request))
