"""The console in the chart: a client of the services, reached by browsers, with no secret but its own."""

import dataclasses
import json

import pytest

from holdfast.console.settings import ConsoleSettings
from holdfast.kit.settings import load, variable
from tests.deploy.chart import CHART, VALUES, HelmError, Manifests, helm, rendered, template, variables
from tests.deploy.test_network import component, policies

NAME = "hf-holdfast-console"


@pytest.fixture
def manifests() -> Manifests:
    return rendered("console")


@pytest.mark.parametrize("kubernetes", ["1.30.0", "1.34.0"])
def test_helm_finds_nothing_to_complain_of(kubernetes: str) -> None:
    helm("lint", "--strict", "--kube-version", kubernetes, "--values", VALUES / "console.yaml", CHART)


def test_it_is_made_where_it_is_asked_for_and_nowhere_else(manifests: Manifests) -> None:
    kinds = {one["kind"] for one in manifests.all if one["metadata"]["name"] == NAME}
    assert kinds >= {"Deployment", "Service", "ServiceAccount", "NetworkPolicy", "Ingress", "HTTPRoute"}
    assert not [one for one in rendered("full").all if "console" in one["metadata"]["name"]]
    alone = rendered("console", "console.ingress.enabled=false", "console.route.enabled=false")
    assert not alone.of("Ingress")
    assert not alone.of("HTTPRoute")


def test_it_starts_with_what_the_chart_tells_it_and_finds_the_services(manifests: Manifests) -> None:
    container = manifests.containers()[f"{NAME}/console"]
    told = {key: str(value) for key, value in variables(container).items()}
    assert container["args"] == ["serve", "console"]
    settings = load(ConsoleSettings, told)
    assert settings.identity
    assert settings.console_https
    assert settings.console_hosts == ("console.example.com", "console.internal", "localhost")
    known = {variable(field) for field in dataclasses.fields(ConsoleSettings)}
    assert {key for key in told if key.startswith("HOLDFAST_")} <= known
    services = {
        f"{name}.prod.svc:{one['spec']['ports'][0]['port']}"
        for name, one in manifests.of("Service").items()
        if name != NAME
    }
    addresses = {value for key, value in told.items() if key.endswith("_ADDRESS")}
    assert len(addresses) == 4
    assert addresses <= services
    for path in ("/etc/holdfast/console/console-secret", "/etc/holdfast/tls/ca.crt"):
        assert path in told.values()


ISSUER = {
    "auth": "token,jwt",
    "existingSecret": "identity",
    "runnerSecret": "runners",
    "jwt": {"issuer": "https://id.example.com", "audience": "holdfast"},
    "egress": [
        {"to": [{"ipBlock": {"cidr": "203.0.113.7/32"}}], "ports": [{"protocol": "TCP", "port": 443}]}
    ],
}
OIDC = (
    f"identity={json.dumps(ISSUER)}",
    'console.oidc={"issuer": "https://id.example.com", "clientId": "console", "secretKey": "client"}',
)


def test_it_knows_the_provider_where_people_sign_in_and_reaches_it() -> None:
    manifests = rendered("console", *OIDC)
    told = {key: str(value) for key, value in variables(manifests.containers()[f"{NAME}/console"]).items()}
    settings = load(ConsoleSettings, told)
    assert (settings.console_oidc_issuer, settings.console_oidc_client_id) == (
        "https://id.example.com",
        "console",
    )
    assert str(settings.console_oidc_secret_file) == "/etc/holdfast/console/oidc-secret"
    (secret,) = (
        one["secret"] for one in manifests.pods()[NAME]["spec"]["volumes"] if one["name"] == "console"
    )
    assert {"key": "client", "path": "oidc-secret"} in secret["items"]
    (policy,) = policies(manifests)["console"]
    assert "203.0.113.7/32" in str(policy["egress"])
    assert "203.0.113.7/32" not in str(policies(rendered("console", OIDC[0]))["console"])


def test_it_has_no_way_to_the_database_and_no_secret_of_the_platform(manifests: Manifests) -> None:
    pod = manifests.pods()[NAME]["spec"]
    secrets = {one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one}
    assert secrets == {"console", "certificates"}
    text = str(pod)
    for word in ("DATABASE_URL", "CAPABILITY", "TOKEN_FILE", "ledger", "signing"):
        assert word not in text
    for spec in policies(manifests)["console"]:
        assert not [rule for rule in spec["egress"] if not rule.get("to")], "it reaches its services alone"


def test_browsers_reach_it_and_it_reaches_the_services(manifests: Manifests) -> None:
    (policy,) = policies(manifests)["console"]
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 7480}]
    assert rule["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}
    ]
    reached = {component(peer) for each in policy["egress"] for peer in each["to"]}
    assert reached == {"invoker", "checkpoint", "approval", "dispatcher"}
    for service in reached:
        (one,) = policies(manifests)[service]
        assert "console" in {component(peer) for peer in one["ingress"][0]["from"]}
    (runner,) = policies(manifests)["runner"]
    assert "console" not in {component(peer) for peer in runner["ingress"][0]["from"]}


def test_probes_ask_over_http_under_a_name_that_it_answers_to(manifests: Manifests) -> None:
    container = manifests.containers()[f"{NAME}/console"]
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[kind]["httpGet"]
        assert (asked["path"], asked["port"]) == ("/healthz", 7480)
        assert asked["httpHeaders"] == [{"name": "Host", "value": "localhost"}]


def test_the_ingress_and_the_route_lead_to_its_port_over_tls(manifests: Manifests) -> None:
    hosts = ["console.example.com", "console.internal"]
    ingress = manifests.of("Ingress")[NAME]
    assert ingress["metadata"]["annotations"] == {"example.com/buffering": "off"}
    assert ingress["spec"]["tls"] == [{"secretName": "console-tls", "hosts": hosts}]
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == hosts
    (port,) = manifests.of("Service")[NAME]["spec"]["ports"]
    for rule in ingress["spec"]["rules"]:
        (path,) = rule["http"]["paths"]
        assert path["backend"]["service"] == {"name": NAME, "port": {"name": port["name"]}}
    route = manifests.of("HTTPRoute")[NAME]["spec"]
    assert route["hostnames"] == hosts
    assert route["rules"][0]["backendRefs"] == [{"name": NAME, "port": port["port"]}]
    assert "clusterIP" not in manifests.of("Service")[NAME]["spec"]


def test_it_runs_as_the_others_do(manifests: Manifests) -> None:
    container = manifests.containers()[f"{NAME}/console"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["runAsNonRoot"] is True
    deployment = manifests.of("Deployment")[NAME]["spec"]
    assert deployment["replicas"] == 2
    assert NAME in manifests.of("PodDisruptionBudget")
    assert f"{NAME}.prod.svc" not in str(rendered("console", 'tls.existingSecret=""').of("Pod"))


REFUSED = {
    'console.existingSecret=""': "console.existingSecret is empty",
    "console.hostnames=[]": "console.hostnames is empty",
    "console.browsers=[]": "console.browsers is empty",
    "console.route.parentRefs=[]": "console.route.enabled needs console.route.parentRefs",
    'console.oidc.issuer="https://id.example.com"': "console.oidc.issuer needs console.oidc.clientId",
    'console.ingress.tlsSecret=""': "console.ingress.enabled needs console.ingress.tlsSecret",
    'console.env={"HOLDFAST_CONSOLE_SECRET": "s"}': "values are no place for secrets",
    'console.env={"HOLDFAST_CONSOLE_HTTPS": "false"}': "which the chart sets itself",
    'runner.envFrom=[{"secretRef": {"name": "console"}}]': "gets no secret of the platform",
    "console.hosts=[]": "additional properties 'hosts' not allowed",
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_cannot_work_is_refused_in_one_sentence(told: str) -> None:
    with pytest.raises(HelmError, match=REFUSED[told].replace(".", r"\.")):
        template("console", told)
