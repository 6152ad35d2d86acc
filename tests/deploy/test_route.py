"""From outside all that clients may call is reached where it is served, and nothing that runners call."""

from pathlib import Path
from typing import Any

import pytest

from holdfast.kit.auth.role import RUNNER
from holdfast.kit.auth.rule import RULES
from tests.contract.test_live import SERVED_BY
from tests.deploy.chart import HelmError, decoded, rendered, template

ENVOY = Path(__file__).parents[2] / "deploy/envoy/envoy.yaml"
INSIDE = {"TenantService", "externalscaler.ExternalScaler"}
"""What is for the platform's own people, though not for runners."""


def for_clients() -> dict[str, str]:
    """Return the path of each RPC that clients call, with the service that serves it."""
    paths = {}
    for path, rule in RULES.items():
        service = path.split("/")[1].removeprefix("holdfast.v1.")
        if rule.roles != {RUNNER} and service not in INSIDE:
            paths[path] = SERVED_BY[service]
    return paths


def reached(routes: list[tuple[str, str]]) -> dict[str, str]:
    """Return where each RPC of the contract leads, by routes of a prefix and a place; the first counts."""
    return {
        path: next(place for prefix, place in routes if path.startswith(prefix))
        for path in RULES
        if any(path.startswith(prefix) for prefix, _ in routes)
    }


def test_the_charts_route_leads_to_what_clients_may_call_and_nowhere_else() -> None:
    spec = rendered("full").of("GRPCRoute")["hf"]["spec"]
    services = rendered("full").of("Service")
    routes = []
    for rule in spec["rules"]:
        (backend,) = rule["backendRefs"]
        assert backend["port"] == services[backend["name"]]["spec"]["ports"][0]["port"]
        for match in rule["matches"]:
            method = match["method"]
            place = backend["name"].removeprefix("hf-").removeprefix("holdfast-")
            routes.append((f"/{method['service']}/{method.get('method', '')}", place))
    assert reached(routes) == for_clients()


ROUTED = 'gateway={"enabled": true, "parentRefs": [{"name": "public"}]}'
REFS = 'gateway.backendTls.caCertificateRefs=[{"group": "", "kind": "ConfigMap", "name": "ca"}]'
SYSTEM = 'gateway.backendTls.wellKnownCACertificates="System"'


@pytest.mark.parametrize("version", ["v1", "v1alpha3"])
@pytest.mark.parametrize("dispatchers", ["true", "false"])
def test_the_gateway_speaks_tls_to_each_service_that_it_routes_to(version: str, dispatchers: str) -> None:
    api = f"gateway.networking.k8s.io/{version}"
    sets = (ROUTED, REFS, f'gateway.backendTls.apiVersion="{api}"', f"dispatcher.enabled={dispatchers}")
    made = rendered("identity", *sets)
    rules = made.of("GRPCRoute")["hf-holdfast"]["spec"]["rules"]
    policies = made.of("BackendTLSPolicy")
    assert set(policies) == {rule["backendRefs"][0]["name"] for rule in rules}
    for name, policy in policies.items():
        assert policy["apiVersion"] == api
        assert policy["spec"] == {
            "targetRefs": [{"group": "", "kind": "Service", "name": name}],
            "validation": {
                "hostname": f"{name}.prod.svc",
                "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}],
            },
        }


def test_the_authorities_that_the_gateways_machine_trusts_do_as_well() -> None:
    policy = rendered("identity", ROUTED, SYSTEM).of("BackendTLSPolicy")["hf-holdfast-invoker"]
    assert policy["spec"]["validation"] == {
        "hostname": "hf-holdfast-invoker.prod.svc",
        "wellKnownCACertificates": "System",
    }


def test_where_there_is_no_tls_or_no_route_or_the_gateway_is_told_otherwise_there_is_no_policy() -> None:
    for sets in (
        (ROUTED, REFS, 'tls.existingSecret=""'),
        (ROUTED, "gateway.backendTls.enabled=false"),
        (REFS,),
    ):
        assert not rendered("identity", *sets).of("BackendTLSPolicy"), sets


@pytest.mark.parametrize("trust", [(), (REFS, SYSTEM)])
def test_a_gateway_that_does_not_know_whom_to_trust_or_is_told_twice_is_refused(trust: tuple[str]) -> None:
    with pytest.raises(HelmError) as refusal:
        template("identity", ROUTED, *trust)
    assert (
        ": gateway.enabled with tls.existingSecret needs one of gateway.backendTls.caCertificateRefs and "
        "gateway.backendTls.wellKnownCACertificates, by which the gateway trusts the services, "
        "or gateway.backendTls.enabled=false.\n"
    ) in str(refusal.value)


def test_the_envoy_in_front_lets_through_just_that() -> None:
    config = decoded(ENVOY.read_text())[0]
    clusters = {one["name"]: one for one in config["static_resources"]["clusters"]}
    routes = []
    for match, cluster in _routes(config):
        (prefix,) = match.values()
        routes.append((prefix, cluster))
        assert "path" in match or prefix.endswith("/")
    assert reached(routes) == for_clients()
    assert set(clusters) == {cluster for _, cluster in routes}
    for name, cluster in clusters.items():
        assert cluster["load_assignment"]["cluster_name"] == name
        assert f"holdfast-{name}" in str(cluster["load_assignment"])


def test_nobody_outside_says_who_they_are_in_metadata() -> None:
    (manager,) = _managers(decoded(ENVOY.read_text())[0])
    removed = set(manager["route_config"]["request_headers_to_remove"])
    assert {"holdfast-user", "holdfast-groups", "holdfast-roles", "holdfast-capability"} <= removed


def _managers(config: Any) -> list[Any]:
    (listener,) = config["static_resources"]["listeners"]
    return [one["typed_config"] for chain in listener["filter_chains"] for one in chain["filters"]]


def _routes(config: Any) -> list[tuple[dict[str, str], str]]:
    (manager,) = _managers(config)
    (host,) = manager["route_config"]["virtual_hosts"]
    return [(one["match"], one["route"]["cluster"]) for one in host["routes"]]
