"""What cannot work is refused before anything is applied, in one sentence or by the schema."""

import pytest

from tests.deploy.chart import HelmError, template

_NO_SECRET = "names the secret ledger: a runner executes agents, and gets no secret of the platform."

SENTENCES = {
    'image.tag=""': "image.tag is empty: name the version to run, or set image.digest.",
    'image.tag="latest"': "image.tag is latest: name a version, or pods of one deployment would differ.",
    'database.existingSecret=""': (
        "database.existingSecret is empty: name the secret that holds the URLs of the ledger, "
        "one for each role."
    ),
    "runner.pools=null": "runner.pools is empty: define at least one pool, with the agents it runs.",
    "runner.pools.main.agents=[]": (
        "runner.pools.main.agents is empty: name the apps whose agents the pool runs, each as module:name."
    ),
    "runner.pools.more={}": (
        "runner.pools.more.agents is empty: name the apps whose agents the pool runs, each as module:name."
    ),
    'runner.pools.main.image={"repository": "support"}': (
        "runner.pools.main.image.tag is empty: "
        "name the version to run, or set runner.pools.main.image.digest."
    ),
    'invoker.image.tag="latest"': (
        "invoker.image.tag is latest: name a version, or pods of one deployment would differ."
    ),
    "allowInsecureBind=false": (
        "Without identity who reaches a service may act for any tenant: "
        "set identity.auth, or allowInsecureBind=true if the network policies are enforced and enough."
    ),
    'invoker.batchSources.declared="[a]"': (
        "invoker.batchSources.existingSecret is empty: "
        "name the secret that holds the URLs of the databases declared."
    ),
    'identity.auth="token"': (
        "identity.auth needs identity.existingSecret and identity.runnerSecret: "
        "the key of leases, and the token of runners."
    ),
    'identity={"auth": "jwt", "existingSecret": "a", "runnerSecret": "b"}': (
        "identity.auth has jwt, which needs identity.jwt.issuer and identity.jwt.audience: "
        "tokens made for others would be taken."
    ),
    'invoker.env={"HOLDFAST_AUTH": "none"}': "invoker.env names HOLDFAST_AUTH, which the chart sets itself.",
    'runner.env={"HOLDFAST_TOKEN": "hf_a"}': (
        "runner.pools.main.env names HOLDFAST_TOKEN: "
        "values are no place for secrets, so name an existing one."
    ),
    "gateway.enabled=true": (
        "gateway.enabled needs gateway.parentRefs: a route that belongs to no gateway serves nobody."
    ),
    'console={"enabled": true, "existingSecret": "console", "hostnames": ["a"], '
    '"browsers": [{"podSelector": {}}], "ingress": {"enabled": true, "tlsSecret": "tls"}}': (
        "console.ingress and console.route need identity.auth: whoever came that way could act as anybody."
    ),
    'approval.autoscaling={"kind": "hpa", "minReplicas": 11}': (
        "approval.autoscaling.minReplicas is greater than its maxReplicas."
    ),
    'runner.autoscaling.kind="keda"': (
        "runner.pools.main.autoscaling.kind is keda, which needs autoscaling.intents or autoscaling.triggers."
    ),
    'invoker.env={"HOLDFAST_DATABASE_URL": "postgresql://db/holdfast"}': (
        "invoker.env names HOLDFAST_DATABASE_URL, which the chart sets itself."
    ),
    'runner.env={"HOLDFAST_INVOKER_ADDRESS": "elsewhere:1"}': (
        "runner.pools.main.env names HOLDFAST_INVOKER_ADDRESS, which the chart sets itself."
    ),
    'runner.env={"HOLDFAST_DATABASE_URL": "postgresql://db/holdfast"}': (
        "runner.pools.main.env names HOLDFAST_DATABASE_URL, which the chart sets itself."
    ),
    'dispatcher.env={"HOLDFAST_SECRET_TICKETS": "whsec_AAAA"}': (
        "dispatcher.env names HOLDFAST_SECRET_TICKETS: "
        "values are no place for secrets, so name an existing one."
    ),
    'runner.envFrom=[{"secretRef": {"name": "ledger"}}]': f"runner.pools.main {_NO_SECRET}",
    'runner.volumes=[{"name": "all", "secret": {"secretName": "ledger"}}]': f"runner.pools.main {_NO_SECRET}",
}

SCHEMA = {
    "invoker.replica=2": "additional properties 'replica' not allowed",
    "replicas=2": "additional properties 'replicas' not allowed",
    'invoker.replicas="2"': "got string, want integer",
    "invoker.replicas=-1": "minimum: got -1, want 0",
    "invoker.slots=4": "additional properties 'slots' not allowed",
    'invoker.env={"OPENAI_API_KEY": "k"}': "does not match pattern",
    'invoker.image.tag="a b"': "does not match pattern",
    'image.digest="sha256:short"': "does not match pattern",
    'image.pullPolicy="Sometimes"': "value must be one of",
    'defaults.autoscaling.kind="vpa"': "value must be one of",
    'identity.auth="basic"': "value must be one of",
    "database.port=0": "minimum: got 0, want 1",
    'database.password="hunter2"': "additional properties 'password' not allowed",
    'runner.pools.Main={"agents": ["hello:app"]}': "'Main' does not match pattern",
    'runner.pools.main.agents=["hello"]': "'hello' does not match pattern",
    'gateway.backendTls.apiVersion="gateway.networking.k8s.io/v1beta1"': "does not match pattern",
    'gateway.backendTls.caCertificateRefs=[{"name": "ca"}]': "missing properties 'group', 'kind'",
    "networkPolicy.dns=[]": "minItems: got 0, want 1",
    'networkPolicy.clients=[{"podselector": {}}]': "additional properties 'podselector' not allowed",
    "networkPolicy.clients=[{}]": "minProperties: got 0, want 1",
}


def test_the_values_these_refusals_begin_with_are_fine() -> None:
    assert template("minimal")


@pytest.mark.parametrize("told", SENTENCES)
def test_what_cannot_work_is_refused_in_one_sentence(told: str) -> None:
    with pytest.raises(HelmError) as refusal:
        template("minimal", told)
    assert f": {SENTENCES[told]}\n" in str(refusal.value)


@pytest.mark.parametrize("told", SCHEMA)
def test_what_no_value_may_be_is_refused_by_the_schema(told: str) -> None:
    with pytest.raises(HelmError) as refusal:
        template("minimal", told)
    assert "the schema" in str(refusal.value)
    assert SCHEMA[told] in str(refusal.value)


def test_a_scaler_without_a_cpu_to_measure_is_refused() -> None:
    with pytest.raises(HelmError, match=r"kind is hpa, which needs resources.requests.cpu"):
        template("minimal", 'approval.autoscaling.kind="hpa"', "defaults.resources.requests=null")


def test_effects_that_nobody_would_send_are_refused() -> None:
    with pytest.raises(HelmError, match="No dispatcher runs, and effects would wait for ever"):
        template("minimal", "dispatcher.enabled=false", "runner.sidecar=false")


def test_an_older_kubernetes_is_refused() -> None:
    with pytest.raises(HelmError, match=r"chart requires kubeVersion: >=1.30.0-0"):
        template("minimal", kubernetes="1.29.4")
