"""The edge in the chart: senders reach it, it reaches the Invoker, and it has no secret but its sources'."""

import dataclasses
import tomllib

import pytest

from holdfast.edge.declaration import sources_of
from holdfast.edge.settings import EdgeSettings
from holdfast.kit.settings import load, variable
from tests.deploy.chart import CHART, VALUES, HelmError, Manifests, helm, rendered, template, variables
from tests.deploy.test_network import component, policies

NAME = "hf-holdfast-edge"


@pytest.fixture
def manifests() -> Manifests:
    return rendered("edge")


def test_helm_finds_nothing_to_complain_of() -> None:
    helm("lint", "--strict", "--kube-version", "1.34.0", "--values", VALUES / "edge.yaml", CHART)


def test_it_is_made_where_it_is_asked_for_and_nowhere_else(manifests: Manifests) -> None:
    kinds = {one["kind"] for one in manifests.all if one["metadata"]["name"] == NAME}
    wanted = {"Deployment", "Service", "ServiceAccount", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget"}
    assert kinds == wanted
    assert not [one for one in rendered("full").all if "edge" in one["metadata"]["name"]]


def test_it_starts_with_what_the_chart_tells_it(manifests: Manifests) -> None:
    container = manifests.containers()[f"{NAME}/edge"]
    told = {key: str(value) for key, value in variables(container).items()}
    settings = load(EdgeSettings, told)
    assert settings.tls is not None
    assert settings.requests_at_once == 64
    assert {key for key in told if key.startswith("HOLDFAST_")} <= {
        variable(field) for field in dataclasses.fields(EdgeSettings)
    }
    invoker = manifests.of("Service")["hf-holdfast-invoker"]["spec"]["ports"][0]
    assert settings.invoker_address == f"hf-holdfast-invoker.prod.svc:{invoker['port']}"
    declared = manifests.of("ConfigMap")[NAME]["data"]["sources.toml"]
    (source,) = sources_of(tomllib.loads(declared))
    assert source.of.name == "github"
    mounts = {one["mountPath"] for one in container["volumeMounts"]}
    assert str(settings.secrets_dir) in mounts
    assert str(settings.sources_file).removesuffix("/sources.toml") in mounts
    (default,) = (one.default for one in dataclasses.fields(EdgeSettings) if one.name == "listen")
    assert container["ports"][0]["containerPort"] == int(str(default).rpartition(":")[2])


def test_it_gets_no_secret_but_its_own(manifests: Manifests) -> None:
    pod = manifests.pods()[NAME]["spec"]
    secrets = {one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one}
    assert secrets == {"sources", "certificates"}
    for word in ("DATABASE_URL", "CAPABILITY", "ledger", "identity", "runners"):
        assert word not in str(pod)
    others = [one for name, one in manifests.pods().items() if name != NAME]
    assert "'sources'" not in str(others)


def test_senders_reach_it_and_it_reaches_the_invoker_and_what_it_reads(manifests: Manifests) -> None:
    (policy,) = policies(manifests)["edge"]
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 7490}]
    assert rule["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}
    ]
    to_invoker, to_nats = policy["egress"]
    assert [component(peer) for peer in to_invoker["to"]] == ["invoker"]
    assert to_nats["ports"] == [{"protocol": "TCP", "port": 4222}]
    let_in = [
        component(peer)
        for spec in policies(manifests)["invoker"]
        for each in spec["ingress"]
        for peer in each["from"]
    ]
    assert "edge" in let_in
    assert not [spec for spec in policies(manifests)["checkpoint"] if "'edge'" in str(spec)]


def test_a_changed_declaration_is_taken_up() -> None:
    def annotations(*sets: str) -> object:
        return rendered("edge", *sets).pods()[NAME]["metadata"]["annotations"]

    assert annotations() != annotations('edge.sources="[http.a]"')


def test_it_runs_as_the_others_do(manifests: Manifests) -> None:
    container = manifests.containers()[f"{NAME}/edge"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["args"] == ["serve", "edge"]
    assert manifests.of("Deployment")[NAME]["spec"]["replicas"] == 3
    for kind in ("startupProbe", "readinessProbe"):
        assert container[kind]["httpGet"] == {"path": "/healthz", "port": 7490}
    # One that has as many requests as it takes answers 503 to the next, and must not die of that.
    assert container["livenessProbe"]["tcpSocket"] == {"port": 7490}


REFUSED = {
    'edge.sources=""': "edge.sources is empty",
    "edge.senders=[]": "edge.senders is empty",
    'edge.env={"HOLDFAST_SECRET_GITHUB": "s"}': "values are no place for secrets",
    'edge.env={"HOLDFAST_TOKEN": "hf_a"}': "values are no place for secrets",
    'edge.env={"HOLDFAST_LISTEN": "s"}': "which the chart sets itself",
    'edge.env={"HOLDFAST_SOURCES_FILE": "s"}': "which the chart sets itself",
    'runner.envFrom=[{"secretRef": {"name": "sources"}}]': "gets no secret of the platform",
    'edge.image={"tag": "latest"}': "edge.image.tag is latest",
    'edge.autoscaling={"kind": "hpa"}': "additional properties 'autoscaling' not allowed",
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_cannot_work_is_refused_in_one_sentence(told: str) -> None:
    with pytest.raises(HelmError, match=REFUSED[told].replace(".", r"\.")):
        template("edge", told)
