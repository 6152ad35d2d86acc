"""API tokens: found by their hash, remembered shortly, and never longer than they hold."""

import asyncio
import time

import pytest

from holdfast.kit.auth.credential import Credentials, bearer
from holdfast.kit.auth.identity import Identity
from holdfast.kit.auth.token import Tokens, hash_of, new_secret
from holdfast.kit.errors import LedgerUnavailable, Unauthenticated

ADA = Identity("acme", "ada", roles=frozenset({"invoke"}))


class Ledger:
    """What stands in for the lookup: who has which hash, and how often it was asked."""

    def __init__(self, **known: Identity) -> None:
        self.known = {hash_of(f"hf_{name}"): identity for name, identity in known.items()}
        self.asked = 0
        self.away = False

    async def find(self, hashed: bytes) -> Identity | None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise LedgerUnavailable("away")
        return self.known.get(hashed)


def test_a_secret_is_new_each_time_and_says_what_it_is() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(secret.startswith("hf_") and len(secret) == 46 for secret in secrets)
    assert all(secret.encode() not in hash_of(secret) for secret in secrets)


async def test_many_calls_at_once_ask_once() -> None:
    ledger = Ledger(ada=ADA)
    tokens = Tokens(ledger.find)
    assert await asyncio.gather(*(tokens.identify("hf_ada") for _ in range(50))) == [ADA] * 50
    assert await tokens.identify("hf_ada") == ADA
    assert ledger.asked == 1


async def test_a_revoked_token_works_no_longer_than_it_is_remembered() -> None:
    ledger = Ledger(ada=ADA)
    short, none = Tokens(ledger.find, life=0.05), Tokens(ledger.find, life=0)
    assert await short.identify("hf_ada") == await none.identify("hf_ada") == ADA
    ledger.known.clear()
    assert await short.identify("hf_ada") == ADA
    with pytest.raises(Unauthenticated):
        await none.identify("hf_ada")
    async with asyncio.timeout(5):
        while True:
            try:
                await short.identify("hf_ada")
            except Unauthenticated:
                break
            await asyncio.sleep(0.01)


async def test_a_token_that_ends_is_not_remembered_beyond_its_end() -> None:
    ledger = Ledger(ada=Identity("acme", "ada", expires=time.time() + 0.05))
    tokens = Tokens(ledger.find, life=300)
    await tokens.identify("hf_ada")
    async with asyncio.timeout(5):
        while True:
            try:
                await tokens.identify("hf_ada")
            except Unauthenticated:
                break
            await asyncio.sleep(0.01)


async def test_an_unknown_token_is_refused_and_one_nobody_could_ask_about_is_not() -> None:
    ledger = Ledger()
    tokens = Tokens(ledger.find)
    with pytest.raises(Unauthenticated):
        await tokens.identify("hf_eve")
    ledger.known[hash_of("hf_eve")] = ADA  # made a moment later: nobody waits for it to be known
    assert await tokens.identify("hf_eve") == ADA
    ledger.away = True
    with pytest.raises(LedgerUnavailable):
        await tokens.identify("hf_ada")


async def test_a_kind_of_credential_that_is_not_taken_is_refused() -> None:
    only_tokens = Credentials(token=Tokens(Ledger(ada=ADA).find))
    assert await only_tokens.identify("hf_ada") == ADA
    with pytest.raises(Unauthenticated):
        await only_tokens.identify("eyJ.eyJ.sig")
    with pytest.raises(Unauthenticated):
        await Credentials().identify("hf_ada")


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        ["Basic aGY6"],
        ["hf_ada"],
        ["Bearer hf_a", "Bearer hf_b"],
        [b"Bearer hf_a"],
        ["Bearer " + "x" * 9000],
        ["Bearer häf"],
    ],
)
def test_a_call_has_exactly_one_bearer_credential(values: list[str | bytes]) -> None:
    with pytest.raises(Unauthenticated):
        bearer([("authorization", value) for value in values])


def test_the_scheme_may_be_written_small() -> None:
    assert bearer([("x", "y"), ("authorization", "bearer hf_ada")]) == "hf_ada"
