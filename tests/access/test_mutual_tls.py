"""A whole suite over mutual TLS: all that its services do for each other they do with certificates."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from examples.standins.webhook_receiver import WebhookReceiver
from holdfast.client import Client, Destination, Event, Retries, Tls
from holdfast.client.errors import Unavailable
from tests.access.guarded import Guarded, guarding, token_of
from tests.access.test_life import pending
from tests.kit.until import until
from tests.support.certificate import Authority

PATIENCE = 30.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Return who signs every certificate here."""
    return Authority(tmp_path)


@pytest.fixture
async def guarded(database_url: str, tmp_path: Path, authority: Authority) -> AsyncIterator[Guarded]:
    """Run a suite in which nobody speaks to anybody without a certificate."""
    cert, key = authority.issue("service")
    told = {
        "HOLDFAST_TLS_CERT_FILE": str(cert),
        "HOLDFAST_TLS_KEY_FILE": str(key),
        "HOLDFAST_TLS_CA_FILE": str(authority.ca),
        "HOLDFAST_TLS_CLIENT_CA_FILE": str(authority.ca),
        "HOLDFAST_ALLOW_PRIVATE_ADDRESSES": "1",
    }
    async with guarding(database_url, tmp_path, environment=told, supervise=False) as guarded:
        yield guarded


def client_of(guarded: Guarded, token: str, tls: Tls | None, **more: Any) -> Client:
    """Return a client that shows a certificate, or none."""
    at = guarded.addresses
    return Client(
        at["invoker"],
        token=token,
        tls=tls,
        dispatcher=at["dispatcher"],
        checkpoint=at["checkpoint"],
        approval=at["approval"],
        **more,
    )


@pytest.mark.timeout(300)
async def test_all_that_services_do_for_each_other_works_and_strangers_are_not_let_in(
    guarded: Guarded, authority: Authority
) -> None:
    tls = Tls(authority.ca, *authority.issue("client"))
    ada = await token_of(guarded.url, "invoke", "read", "operate", "admin")
    bob = await token_of(guarded.url, "approve", "read", user="bob", groups=["signers"])
    async with client_of(guarded, ada, tls) as client:
        # From an Invoker to a runner, from there to the Checkpoint service, and back for a child.
        assert await (await client.invoke("family", {"number": 1})).result(patience=PATIENCE) == 3
        # Live, from the runner's own server.
        async with client.converse("add", {"number": 1}) as said:
            assert [each.text async for each in said if isinstance(each, Event) and each.text] == ["adding"]
        # From a runner to the Approval service, and from there back to the run.
        asking = await client.invoke("ask", {"loan": "7"})
        async with client_of(guarded, bob, tls) as signer:
            await signer.approvals().approve(await pending(client, asking.run_id))
        assert await asking.result(patience=PATIENCE) == "approved"
        # The outbox beside them.
        async with WebhookReceiver() as receiver:
            await client.outbox.put_destination(Destination("hooks", f"{receiver.url}/hooks"))
            await client.invoke("post", {"to": "you"})
            await until(lambda: bool(receiver.received()), deadline=PATIENCE)
    for stranger in (None, Tls(authority.ca), Tls(authority.ca, *_of_another(guarded))):
        async with client_of(guarded, ada, stranger, retries=Retries(attempts=1)) as nobody:
            with pytest.raises(Unavailable):
                await nobody.get_run(asking.run_id)


@pytest.mark.timeout(300)
async def test_certificates_that_are_replaced_hold_nobody_up(guarded: Guarded, authority: Authority) -> None:
    tls = Tls(authority.ca, *authority.issue("client"))
    ada = await token_of(guarded.url, "invoke", "read")
    async with client_of(guarded, ada, tls) as client:
        assert await (await client.invoke("add", {"number": 1})).result(patience=PATIENCE) == 2
        authority.issue("service")  # over the files of before
        for process in (*guarded.suite.runners, guarded.suite.processes["checkpoint"]):
            await process.restart()
        assert await (await client.invoke("add", {"number": 2})).result(patience=PATIENCE) == 3


def _of_another(guarded: Guarded) -> tuple[Path, Path]:
    return Authority(guarded.folder, "other").issue("eve")
