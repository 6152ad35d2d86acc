"""A JWT is taken if its issuer signed it, for us, with an algorithm chosen here, and not otherwise."""

import base64
import json
from pathlib import Path
from typing import Any

import jwt
import pytest

from holdfast.kit.auth.json_web_token import Claims, JsonWebTokens
from holdfast.kit.auth.key_set import KeySet
from holdfast.kit.auth.key_source import from_file, from_issuer
from holdfast.kit.errors import IdentityUnavailable, Unauthenticated
from tests.support.issuer import AUDIENCE, ISSUER, Issuer, Key, claims_with, issuing

RSA = Key("one")
OTHER = Key("one")  # another's, under the same name
CURVE = Key("curve", "ES256")


def known(*keys: Key, **options: Any) -> JsonWebTokens:
    async def source() -> bytes:
        return json.dumps({"keys": [key.jwk for key in keys]}).encode()

    told: dict[str, Any] = {
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "algorithms": ("RS256", "ES256"),
        "leeway": 0.0,
    } | options
    return JsonWebTokens(KeySet(source), **told)


async def test_a_token_says_who_has_it() -> None:
    me = await known(RSA).identify(RSA.sign())
    assert (me.tenant, me.user, sorted(me.groups), sorted(me.roles)) == (
        "acme",
        "ada",
        ["credit"],
        ["invoke"],
    )
    assert me.credential == f"jwt:{ISSUER}"
    assert me.expires is not None


async def test_each_algorithm_has_its_keys() -> None:
    both = known(RSA, CURVE)
    assert (await both.identify(CURVE.sign())).user == "ada"
    assert (await both.identify(RSA.sign())).user == "ada"


async def test_claims_are_found_where_the_settings_say() -> None:
    claims = Claims(tenant="org.id", user="email", groups="urn:x/groups", roles="realm_access.roles")
    signed = RSA.sign(
        {
            "org": {"id": "umbrella"},
            "email": "eve@umbrella.test",
            "urn:x/groups": "a b,c",
            "realm_access": {"roles": ["approve", "boss"]},
        }
    )
    me = await known(RSA, claims=claims).identify(signed)
    assert (me.tenant, me.user) == ("umbrella", "eve@umbrella.test")
    assert (sorted(me.groups), sorted(me.roles)) == (["a", "b", "c"], ["approve", "boss"])
    fixed = await known(RSA, claims=Claims(fixed_tenant="acme")).identify(RSA.sign({"tenant": "umbrella"}))
    assert fixed.tenant == "acme"


async def test_nobody_is_a_runner_by_a_claim() -> None:
    assert (await known(RSA).identify(RSA.sign({"roles": ["runner", "read"]}))).roles == {"read"}


def encoded(part: Any) -> str:
    text = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def unsigned(header: dict[str, Any]) -> str:
    return f"{encoded(header)}.{encoded(claims_with())}."


def confused() -> str:
    """Signed with HMAC, the key being the public one that everybody has (made by hand: PyJWT refuses to)."""
    import hashlib
    import hmac

    signed = f"{encoded({'alg': 'HS256', 'kid': 'one', 'typ': 'JWT'})}.{encoded(claims_with())}"
    signature = hmac.new(RSA.public_pem, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{encoded(signature)}"


def tampered() -> str:
    head, _, signature = RSA.sign().split(".")
    return f"{head}.{encoded(claims_with({'roles': ['admin']}))}.{signature}"


FORGED = {
    "alg none": unsigned({"alg": "none", "typ": "JWT"}),
    "alg None": unsigned({"alg": "None"}),
    "alg nOnE": unsigned({"alg": "nOnE", "kid": "one"}),
    "no alg": unsigned({"typ": "JWT"}),
    "alg of another type": unsigned({"alg": ["RS256"]}),
    "the public key as an HMAC secret": confused(),
    "claims changed": tampered(),
    "signature cut off": RSA.sign().rpartition(".")[0] + ".",
    "another's key under our name": OTHER.sign(),
    "a key of another kind under our name": Key("one", "ES256").sign(),
    "an algorithm not chosen": Key("one", "RS512").sign(),
    "unknown kid": Key("two").sign(),
    "kid is a path": RSA.sign(headers={"kid": "../../dev/null\n"}),
    "jku": RSA.sign(headers={"jku": "https://evil.test/keys"}),
    "x5u": RSA.sign(headers={"x5u": "https://evil.test/cert"}),
    "x5c": RSA.sign(headers={"x5c": ["MII"]}),
    "jwk": OTHER.sign(headers={"jwk": OTHER.jwk}),
    "crit": RSA.sign(headers={"crit": ["exp"]}),
    "over": RSA.sign({"exp": 1}),
    "not yet": RSA.sign({"nbf": 4_000_000_000}),
    "never over": RSA.sign({"exp": None}),
    "another audience": RSA.sign({"aud": "elsewhere"}),
    "no audience": RSA.sign({"aud": None}),
    "another issuer": RSA.sign({"iss": "https://evil.test"}),
    "no issuer": RSA.sign({"iss": None}),
    "no tenant": RSA.sign({"tenant": None}),
    "the platform as its tenant": RSA.sign({"tenant": "*"}),
    "a tenant that is no text": RSA.sign({"tenant": ["acme"]}),
    "an empty tenant": RSA.sign({"tenant": ""}),
    "a user with a line break": RSA.sign({"sub": "ada\nroot"}),
    "roles that are no names": RSA.sign({"roles": [{"admin": True}]}),
    "nothing": "",
    "no token": "a.b.c",
    "bytes that are no JSON": f"{encoded(b'xx')}.{encoded(b'yy')}.zz",
}


@pytest.mark.parametrize("name", list(FORGED))
async def test_what_the_issuer_did_not_sign_for_us_is_refused(name: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await known(RSA).identify(FORGED[name])
    assert caught.value.message == "The credential does not verify."


async def test_a_token_without_kid_is_taken_if_the_issuer_has_one_key_that_fits() -> None:
    bare = Key(None)
    assert (await known(bare).identify(bare.sign())).user == "ada"
    with pytest.raises(Unauthenticated):
        await known(bare, RSA).identify(bare.sign())


async def test_a_key_without_algorithm_verifies_only_what_its_kind_signs() -> None:
    plain = Key("one", named=False)
    assert (await known(plain).identify(plain.sign())).user == "ada"
    with pytest.raises(Unauthenticated):
        await known(plain).identify(CURVE.sign(headers={"kid": "one"}))


async def test_a_secret_among_the_keys_is_never_one() -> None:
    async def source() -> bytes:
        secret = {"kty": "oct", "kid": "one", "k": encoded(b"x" * 32)}
        return json.dumps({"keys": [secret]}).encode()

    signed = jwt.encode(claims_with(), "x" * 32, algorithm="HS256", headers={"kid": "one"})
    lax = JsonWebTokens(KeySet(source), issuer=ISSUER, audience=AUDIENCE, algorithms=("HS256",))
    with pytest.raises(Unauthenticated):
        await lax.identify(signed)


def discovered(issuer: Issuer, **options: Any) -> tuple[JsonWebTokens, KeySet]:
    keys = KeySet(from_issuer(issuer.url), **options)
    return JsonWebTokens(keys, issuer=issuer.url, audience=AUDIENCE, leeway=0), keys


async def test_keys_are_found_by_the_issuers_url_and_a_new_one_as_it_is_used() -> None:
    new = Key("two")
    async with issuing(RSA) as issuer:
        tokens, _ = discovered(issuer, pause=0)
        assert (await tokens.identify(RSA.sign({"iss": issuer.url}))).user == "ada"
        assert len(issuer.asked) == 2
        assert (await tokens.identify(RSA.sign({"iss": issuer.url}))).user == "ada"
        assert len(issuer.asked) == 2  # remembered
        issuer.keys.append(new)
        assert (await tokens.identify(new.sign({"iss": issuer.url}))).user == "ada"
        assert len(issuer.asked) == 4


async def test_unknown_keys_have_the_issuer_asked_no_more_than_every_few_seconds() -> None:
    async with issuing(RSA) as issuer:
        tokens, _ = discovered(issuer, pause=60)
        for number in range(20):
            with pytest.raises(Unauthenticated):
                await tokens.identify(Key(f"k{number}", "ES256").sign({"iss": issuer.url}))
            with pytest.raises(Unauthenticated):
                await tokens.identify(RSA.sign({"iss": issuer.url}, headers={"kid": f"k{number}"}))
        assert len(issuer.asked) <= 2


async def test_an_issuer_that_is_away_is_no_reason_to_refuse_anybody_for_good() -> None:
    async with issuing(RSA) as issuer:
        issuer.broken = True
        tokens, keys = discovered(issuer, pause=0, life=0)
        with pytest.raises(IdentityUnavailable):
            await tokens.identify(RSA.sign({"iss": issuer.url}))
        issuer.broken = False
        assert (await tokens.identify(RSA.sign({"iss": issuer.url}))).user == "ada"
        issuer.broken = True  # what is known is used for a day
        assert (await tokens.identify(RSA.sign({"iss": issuer.url}))).user == "ada"
        keys._read_at -= 25 * 3600
        with pytest.raises(IdentityUnavailable):
            await tokens.identify(RSA.sign({"iss": issuer.url}))


async def test_a_configuration_of_another_issuer_is_not_believed() -> None:
    async with issuing(RSA) as issuer:
        issuer.claimed = "https://evil.test"
        tokens, _ = discovered(issuer, pause=0)
        with pytest.raises(IdentityUnavailable):
            await tokens.identify(RSA.sign({"iss": issuer.url}))


async def test_a_key_taken_out_of_the_file_verifies_no_more(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [RSA.jwk]}))
    tokens = JsonWebTokens(KeySet(from_file(file), life=0, pause=0), issuer=ISSUER, audience=AUDIENCE)
    assert (await tokens.identify(RSA.sign())).user == "ada"
    file.write_text(json.dumps({"keys": [CURVE.jwk]}))
    with pytest.raises(Unauthenticated):
        await tokens.identify(RSA.sign())
