"""A secret that was shown to a service is in no log and no error of any; the command line uses it as told."""

import contextlib
import stat
from pathlib import Path

import httpx
import pytest

from holdfast.client.errors import HoldfastError
from holdfast.invoker.settings import InvokerSettings
from holdfast.kit.settings import load, print_config
from holdfast.runner.settings import RunnerSettings
from tests.access.guarded import CAPABILITY_KEY, KEY, Guarded, fetch, guarding, token_of
from tests.cli.conftest import Ended, finish, start
from tests.contract.description import rpcs
from tests.support.collector import Collector

BAD = "hf_" + "b" * 43


@pytest.mark.timeout(300)
async def test_secrets_are_in_nothing_that_services_tell(database_url: str, tmp_path: Path) -> None:
    watching = {"HOLDFAST_METRICS_LISTEN": "127.0.0.1:0"}
    async with (
        Collector() as collector,
        guarding(database_url, tmp_path, environment=watching | collector.environment()) as guarded,
    ):
        admin, signed = await token_of(database_url, "admin"), KEY.sign({"roles": ["admin"]})
        told: list[HoldfastError | None] = []
        async with guarded.client(admin) as client:
            made = await client.access.create_token("spare", roles=["read"])
            family = await client.invoke("family", {"number": 1})
            assert await family.result(patience=30) == 3
        for rpc in rpcs():
            told += [await guarded.call(rpc, each) for each in (BAD, admin + "x", signed + "x", signed)]
            told.append(await guarded.call(rpc, None, more=[("authorization", f"Basic {admin}")]))
        [session] = await fetch(database_url, "SELECT attach_token FROM runner_session")
        secrets = {
            "a token": admin,
            "a token of the API's": made.secret,
            "a token that is none": BAD,
            "a JWT": signed,
            "the key of capabilities": CAPABILITY_KEY,
            "what a runner wants to hear": session["attach_token"],
        }
        assert all(len(secret) >= 40 for secret in secrets.values())
        said = {name: guarded.suite.log(name) for name in guarded.suite.processes}
        for name, process in guarded.suite.processes.items():
            async with httpx.AsyncClient(trust_env=False) as reader:
                said[f"metrics of {name}"] = (await reader.get(f"http://{process.metrics}/metrics")).text
        await collector.until(lambda: bool(collector.find("lease")))
        said["traces"] = collector.raw.decode("latin-1")
        said["errors"] = "\n".join(repr(error) + str(vars(error)) for error in told if error is not None)
        kept = await fetch(
            database_url, "SELECT a::text, t::text FROM access_token t LEFT JOIN audit a ON true"
        )
        said["the ledger"] = str(kept)
        assert all(len(text) > 100 for text in said.values())
        found = [(what, where) for what, secret in secrets.items() for where in said if secret in said[where]]
        assert found == []


def test_settings_are_shown_without_their_secrets() -> None:
    identity = {"HOLDFAST_AUTH": "token", "HOLDFAST_CAPABILITY_KEY": CAPABILITY_KEY, "HOLDFAST_TOKEN": BAD}
    invoker = load(InvokerSettings, {**identity, "HOLDFAST_DATABASE_URL": "postgresql://a:b@c/d"})
    runner = load(RunnerSettings, {**identity, "HOLDFAST_AGENTS": "a:b"})
    shown = print_config(invoker) + print_config(runner)
    assert CAPABILITY_KEY not in shown
    assert BAD not in shown


async def holdfast(guarded: Guarded, folder: Path, *arguments: str, **environment: str) -> Ended:
    told = {"HOLDFAST_ADDRESS": guarded.addresses["invoker"], **environment}
    return await finish(await start(*arguments, folder=folder, **told))


@pytest.mark.timeout(300)
async def test_the_first_token_comes_from_the_database_and_makes_the_others(
    database_url: str, tmp_path: Path
) -> None:
    async with guarding(database_url, tmp_path, runners=0) as guarded:
        none = await holdfast(guarded, tmp_path, "whoami")
        assert none.code == 3
        assert "UNAUTHENTICATED" in none.err
        first = await holdfast(
            guarded, tmp_path, "tokens", "create", "root", "--role", "admin", "--database-url", database_url,
            "--out", "root.token",
        )  # fmt: skip
        assert first.code == 0, first.err
        file = tmp_path / "root.token"
        secret = file.read_text().strip()
        assert secret.startswith("hf_")
        assert secret not in first.out + first.err
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        me = await holdfast(guarded, tmp_path, "whoami", "--token-file", "root.token", "-o", "json")
        assert (me.json[0]["user"], me.json[0]["platform"]) == ("root", True)
        made = await holdfast(
            guarded, tmp_path, "tokens", "create", "ci", "--role", "invoke", "--for", "acme", "--ttl", "1d",
            "-o", "json", HOLDFAST_TOKEN=secret,
        )  # fmt: skip
        assert made.code == 0, made.err
        ci = made.json[0]
        who = await holdfast(guarded, tmp_path, "whoami", HOLDFAST_TOKEN=ci["secret"])
        assert who.out.split()[:4] == ["tenant", "acme", "user", "ci"]
        refused = await holdfast(guarded, tmp_path, "tokens", "list", HOLDFAST_TOKEN=ci["secret"])
        assert refused.code == 3
        assert "PERMISSION_DENIED" in refused.err
        listed = await holdfast(guarded, tmp_path, "tokens", "list", "--for", "acme", HOLDFAST_TOKEN=secret)
        assert ci["token_id"] in listed.out
        assert ci["secret"] not in listed.out
        revoked = await holdfast(
            guarded, tmp_path, "tokens", "revoke", ci["token_id"], "--for", "acme", HOLDFAST_TOKEN=secret
        )
        assert revoked.code == 0, revoked.err
        gone = await holdfast(guarded, tmp_path, "whoami", HOLDFAST_TOKEN=ci["secret"])
        assert gone.code == 3
        audit = await holdfast(guarded, tmp_path, "audit", "list", HOLDFAST_TOKEN=secret)
        assert audit.out.count("CreateToken") == audit.out.count("RevokeToken") == 2
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
