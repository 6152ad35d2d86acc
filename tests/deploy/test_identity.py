"""Identity and TLS in the chart: who gets which secret, and where probes and the pod of `helm test` ask."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.chart import rendered, variables
from tests.invoker.test_process import invoker_process
from tests.support.certificate import Authority

SERVICES = ("invoker", "checkpoint", "approval", "dispatcher", "runner")


def mounts(container: str) -> dict[str, str]:
    """Return what a container has mounted, by volume."""
    found = rendered("identity").containers()[container]
    return {each["name"]: each["mountPath"] for each in found["volumeMounts"]}


def test_every_service_asks_who_calls_and_none_is_left_open() -> None:
    for name, container in rendered("identity").containers().items():
        if name.partition("/")[2] in SERVICES:
            told = variables(container)
            assert told["HOLDFAST_AUTH"] == "token,jwt", name
            assert "HOLDFAST_ALLOW_INSECURE_BIND" not in told, name


def test_runners_get_their_token_and_not_the_key_of_leases() -> None:
    assert "runner-token" in mounts("hf-holdfast-runner-main/runner")
    assert "identity" not in mounts("hf-holdfast-runner-main/runner")
    pod = rendered("identity").pods()["hf-holdfast-runner-main"]
    assert "identity" not in {each["name"] for each in pod["spec"]["volumes"]}
    for service in ("invoker", "checkpoint", "approval"):
        assert "identity" in mounts(f"hf-holdfast-{service}/{service}")
        assert "runner-token" not in mounts(f"hf-holdfast-{service}/{service}")


def test_probes_ask_where_there_is_no_tls() -> None:
    ports = set()
    for name, container in rendered("identity").containers().items():
        if name.partition("/")[2] not in SERVICES:
            continue
        told = variables(container)
        asked = container["livenessProbe"]["grpc"]["port"]
        assert told["HOLDFAST_HEALTH_LISTEN"].endswith(f":{asked}")
        assert asked != container["ports"][0]["containerPort"]
        assert told["HOLDFAST_TLS_CLIENT_CA_FILE"] == "/etc/holdfast/tls/ca.crt"
        ports.add((name, asked))
    assert len({port for name, port in ports if name.startswith("hf-holdfast-runner")}) == 2


def test_the_issuer_can_be_reached_by_those_who_ask_it() -> None:
    policies = rendered("identity").of("NetworkPolicy")
    reached = {name for name, policy in policies.items() if "203.0.113.7/32" in str(policy["spec"]["egress"])}
    assert reached == {
        f"hf-holdfast-{service}" for service in ("invoker", "checkpoint", "approval", "dispatcher")
    }


def test_without_tls_a_gateway_is_told_so_and_with_it_is_not() -> None:
    for values, told in (("identity", {None}), ("full", {"kubernetes.io/h2c"})):
        services = rendered(values).of("Service").values()
        ports = [port for one in services for port in one["spec"]["ports"] if port["name"] == "grpc"]
        assert {port.get("appProtocol") for port in ports} == told


def test_the_notes_say_how_to_call_who_speaks_tls_and_asks_who_calls(told: Callable[..., str]) -> None:
    notes = told("identity")
    assert "-plaintext" not in notes
    assert "-authority hf-holdfast-invoker.prod.svc" in notes
    assert "authorization: Bearer" in notes
    assert "Without identity" not in notes
    assert "-plaintext" in told("minimal")
    assert "Without identity" in told("minimal")


def asked(address: str, folder: Path, values: str = "identity") -> tuple[list[str], dict[str, str]]:
    """Return what the pod of `helm test` runs, for one address, with its secret's files in a folder."""
    pod = rendered(values).pods()["hf-holdfast-test"]["spec"]
    (container,) = pod["containers"]
    mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    secrets = {each["name"]: each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each}
    assert secrets == {name: "certificates" for name in mounted if name != "tmp"}
    _, *options = container["command"]
    script, *addresses = container["args"]
    assert {each.partition(".")[0].removeprefix("hf-holdfast-") for each in addresses} == {
        "invoker",
        "checkpoint",
        "approval",
        "dispatcher",
        "runner-main",
    }
    told = {
        name: value.replace(mounted.get("tls", "/none"), str(folder))
        for name, value in variables(container).items()
    }
    return [sys.executable, *options, script.replace("timeout=30", "timeout=5"), address], told


@pytest.mark.parametrize("values", ["identity", "minimal"])
async def test_helm_test_asks_as_the_services_ask_each_other(
    values: str, database_url: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("service")
    secured = {
        "TLS_CERT_FILE": str(cert.rename(tmp_path / "tls.crt")),
        "TLS_KEY_FILE": str(key.rename(tmp_path / "tls.key")),
        "TLS_CLIENT_CA_FILE": str(authority.ca.rename(tmp_path / "ca.crt")),
    }
    async with invoker_process(database_url, **(secured if values == "identity" else {})) as invoker:
        assert await _ended(*asked(invoker.address, tmp_path, values)) == (0, "SERVING")
        # Who speaks otherwise is not heard.
        other = "minimal" if values == "identity" else "identity"
        code, word = await _ended(*asked(invoker.address, tmp_path, other))
        assert (code, word) in {(1, "UNAVAILABLE"), (1, "DEADLINE_EXCEEDED")}


async def _ended(command: list[str], told: dict[str, str]) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(*command, env=told, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return process.returncode, output.decode().partition(" ")[0]
