"""Identity and TLS in the chart: who gets which secret, and where probes ask."""

from tests.deploy.chart import rendered, variables

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
