"""Runners are scaled by KEDA, which asks the Invokers; what the trigger says is what they take."""

from typing import Any

import pytest

from holdfast.invoker.scaler_trigger import read_trigger
from tests.deploy.chart import HelmError, rendered, template, variables


def trigger(pool: str) -> dict[str, Any]:
    spec = rendered("scaled").of("ScaledObject")[f"hf-holdfast-runner-{pool}"]["spec"]
    assert spec["minReplicaCount"] == 0
    return dict(spec["triggers"][0])


def test_a_pool_is_scaled_by_the_work_of_its_intents_a_pod_having_its_slots() -> None:
    for pool, intents, target in (("support", ("triage", "answer"), 16), ("research", ("research",), 4)):
        one = trigger(pool)
        assert one["type"] == "external-push", "which also hears at once of work"
        assert all(isinstance(entry, str) for entry in one["metadata"].values())
        read = read_trigger(one["metadata"])
        assert (read.question.intents, read.metric, read.target) == (intents, "demand", target)
    assert len(rendered("scaled").of("ScaledObject")) == 2


def test_the_trigger_finds_the_invokers_and_proves_who_asks() -> None:
    one = trigger("support")
    port = rendered("scaled").of("Service")["hf-holdfast-invoker"]["spec"]["ports"][0]
    assert one["metadata"]["scalerAddress"] == f"hf-holdfast-invoker.prod.svc:{port['port']}"
    assert one["metadata"]["enableTLS"] == "true"
    assert one["authenticationRef"] == {"name": "keda"}
    containers = rendered("scaled").containers()
    told = variables(containers["hf-holdfast-runner-support/runner"])
    assert told[one["metadata"]["tokenFromEnv"]] == {"secretKeyRef": {"name": "scaler", "key": "token"}}
    assert one["metadata"]["tokenFromEnv"] not in variables(containers["hf-holdfast-runner-plain/runner"])


def test_keda_is_let_in_to_the_invokers_where_it_is_used_and_nowhere_else() -> None:
    for values, expected in (("scaled", {"hf-holdfast-invoker"}), ("full", set())):
        policies = rendered(values).of("NetworkPolicy")
        let_in = {name for name, one in policies.items() if "'keda'" in str(one["spec"].get("ingress", ""))}
        assert let_in == expected, values


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ('identity.scalerSecret=""', "needs identity.scalerSecret: KEDA has to prove who it is."),
        ('runner.autoscaling.authentication=""', "with TLS KEDA has to know whom to trust."),
        (
            'approval.autoscaling={"kind": "keda", "intents": ["triage"]}',
            "approval.autoscaling.intents: only runners are scaled by the work of intents.",
        ),
    ],
)
def test_what_would_not_scale_is_refused(said: str, sentence: str) -> None:
    with pytest.raises(HelmError) as refused:
        template("scaled", said)
    assert sentence in str(refused.value)
