"""Who may talk to whom: all is denied, but the graph that stands here."""

from typing import Any

import pytest

from tests.deploy.chart import Manifests, rendered

PORTS = {"invoker": 7401, "checkpoint": 7402, "runner": 7403, "approval": 7404, "dispatcher": 7405}
CALLS = {
    ("runner", "invoker"),
    ("runner", "checkpoint"),
    ("runner", "approval"),
    ("invoker", "runner"),
    *(("test", service) for service in PORTS),
}
LABEL = "app.kubernetes.io/component"
READERS = [
    {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}}
]
WORLD = [{"protocol": "TCP", "port": 80}, {"protocol": "TCP", "port": 443}]


def component(peer: dict[str, Any]) -> str:
    return str(peer.get("podSelector", {}).get("matchLabels", {}).get(LABEL, ""))


def policies(manifests: Manifests) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for one in manifests.of("NetworkPolicy").values():
        found.setdefault(one["spec"]["podSelector"]["matchLabels"].get(LABEL, ""), []).append(one["spec"])
    return found


@pytest.mark.parametrize("values", ["minimal", "full", "pools"])
def test_every_pod_is_denied_all_but_dns_by_default(values: str) -> None:
    manifests = rendered(values)
    (everything,) = policies(manifests)[""]
    assert everything["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in everything
    (dns,) = everything["egress"]
    assert dns["to"]
    assert {(one["protocol"], one["port"]) for one in dns["ports"]} == {("UDP", 53), ("TCP", 53)}
    for pod in manifests.pods().values():
        assert everything["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("values", ["minimal", "full", "pools"])
def test_the_graph_is_this_and_both_ends_agree_on_it(values: str) -> None:
    asked, let_in = set(), set()
    there = {one["metadata"]["labels"][LABEL] for one in rendered(values).of("Deployment").values()} | {
        "test"
    }
    for of, specs in policies(rendered(values)).items():
        for spec in specs if of else []:
            for rule in spec.get("ingress", ()):
                assert rule["from"], "a rule without peers lets everybody in"
                if rule["from"] == READERS:
                    assert {one["port"] for one in rule["ports"]} <= {
                        PORTS[of] + 200,
                        PORTS["dispatcher"] + 200,
                    }
                    continue
                assert rule["ports"] == [{"protocol": "TCP", "port": PORTS[of]}]
                let_in |= {(component(peer), of) for peer in rule["from"] if component(peer)}
            for rule in spec.get("egress", ()):
                for peer in rule.get("to", ()):
                    if to := component(peer):
                        assert rule["ports"] == [{"protocol": "TCP", "port": PORTS[to]}]
                        asked.add((of, to))
    assert let_in == {(one, other) for one, other in CALLS if other in there}
    assert {(one, other) for one, other in asked if other in there} == let_in


def test_only_who_has_its_secret_reaches_the_database() -> None:
    manifests = rendered("full")
    reach = set()
    for of, specs in policies(manifests).items():
        for spec in specs:
            for rule in spec.get("egress", ()):
                if {"protocol": "TCP", "port": 6432} in rule.get("ports", ()):
                    assert rule["to"] == [{"podSelector": {"matchLabels": {"cnpg.io/cluster": "ledger"}}}]
                    reach.add(of)
    assert reach == {"invoker", "checkpoint", "approval", "dispatcher", "runner", "migration"}


def test_a_pool_without_a_sidecar_reaches_neither_the_database_nor_the_world() -> None:
    pools = rendered("pools").of("NetworkPolicy")
    quick = pools["hf-holdfast-runner-quick"]["spec"]["egress"]
    assert sorted(one["ports"][0]["port"] for one in quick) == [7401, 7402, 7404]
    assert all(one["to"] for one in quick)
    support = pools["hf-holdfast-runner-support"]["spec"]["egress"]
    assert sorted(one["ports"][0]["port"] for one in support) == [80, 5432, 7401, 7402, 7404]


def test_dispatchers_alone_reach_the_world_and_no_private_address_in_it() -> None:
    reach = set()
    for of, specs in policies(rendered("minimal")).items():
        for spec in specs:
            for rule in spec.get("egress", ()):
                if rule["ports"] == WORLD:
                    reach.add(of)
                    (block,) = (peer["ipBlock"] for peer in rule["to"])
                    assert {"10.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16"} <= set(block["except"])
    assert reach == {"dispatcher", "runner"}  # these with their sidecar


def test_clients_reach_what_clients_call_and_never_a_runner() -> None:
    client = {"podSelector": {"matchLabels": {"holdfast.dev/client": "true"}}}
    found = {
        of
        for of, specs in policies(rendered("minimal")).items()
        for spec in specs
        for rule in spec.get("ingress", ())
        if client in rule["from"]
    }
    assert found == {"invoker", "checkpoint", "approval", "dispatcher"}
    nobody = policies(rendered("minimal", "networkPolicy.clients=[]"))["dispatcher"]
    assert [component(peer) for peer in nobody[0]["ingress"][0]["from"]] == ["test"]
