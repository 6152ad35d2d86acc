"""What the chart makes, in the smallest form, with everything turned on, and with many pools."""

import json
import math
from typing import Any

import pytest

from tests.deploy.chart import CHART, VALUES, Manifests, helm, rendered, template, variables

EVERY = ("minimal", "full", "pools")
SERVICES = ("invoker", "checkpoint", "approval", "dispatcher", "runner")


@pytest.fixture(params=EVERY)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return rendered(request.param)


@pytest.mark.parametrize("values", EVERY)
@pytest.mark.parametrize("kubernetes", ["1.30.0", "1.34.0"])
def test_helm_finds_nothing_to_complain_of(values: str, kubernetes: str) -> None:
    helm("lint", "--strict", "--kube-version", kubernetes, "--values", VALUES / f"{values}.yaml", CHART)


def test_kubernetes_knows_every_field_and_no_name_is_made_twice(manifests: Manifests) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in manifests.all]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for _, name in names)
    assert all(one["metadata"]["namespace"] == "prod" for one in manifests.all)


def test_only_kinds_of_others_escape_kubernetes_own_types() -> None:
    foreign = {one["kind"] for one in rendered("full").all if "." in one["apiVersion"].partition("/")[0]}
    operators = {"GRPCRoute", "ScaledObject", "ServiceMonitor", "PrometheusRule"}
    assert foreign == {"NetworkPolicy", *operators}  # the first is Kubernetes' own


def test_the_longest_names_still_fit() -> None:
    pool = {"runner.pools": {"a" * 15: {"agents": ["hello:app"]}}}
    sets = (f'fullnameOverride="{"f" * 40}"', *(f"{key}={json.dumps(value)}" for key, value in pool.items()))
    assert all(len(one["metadata"]["name"]) <= 63 for one in rendered("minimal", *sets).all)


def test_no_container_is_root_can_write_or_gain_rights(manifests: Manifests) -> None:
    for name, container in manifests.containers().items():
        security = container["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert "privileged" not in security, name
        assert container["resources"]["limits"]["memory"], name
        assert container["resources"]["requests"]["cpu"], name


def test_every_container_has_a_tmp_of_its_own(manifests: Manifests) -> None:
    for name, pod in manifests.pods().items():
        empty = {one["name"] for one in pod["spec"]["volumes"] if "emptyDir" in one}
        containers = (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
        used = [m["name"] for one in containers for m in one["volumeMounts"] if m["mountPath"] == "/tmp"]
        assert len(used) == len(set(used)) == len(containers), name
        assert set(used) == empty, name


def test_no_pod_has_a_token(manifests: Manifests) -> None:
    for name, pod in manifests.pods().items():
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True, name
    accounts = manifests.of("ServiceAccount")
    assert all(one["automountServiceAccountToken"] is False for one in accounts.values())
    for name, one in manifests.of("Deployment").items():
        assert one["spec"]["template"]["spec"]["serviceAccountName"] == name
        assert name in accounts


def test_a_runner_has_no_secret_of_the_platform_and_its_sidecar_has() -> None:
    pod = rendered("full").of("Deployment")["hf-runner-main"]["spec"]["template"]["spec"]
    (runner,), (sidecar,) = pod["containers"], pod["initContainers"]
    assert "HOLDFAST_DATABASE_URL" not in variables(runner)
    assert not any(word in json.dumps(runner) for word in ("secretKeyRef", "ledger", "signing"))
    assert [one["name"] for one in runner["volumeMounts"]] == ["tmp-runner"]
    assert runner["envFrom"] == [{"secretRef": {"name": "model"}}]

    assert sidecar["restartPolicy"] == "Always"
    assert variables(sidecar)["HOLDFAST_DATABASE_URL"] == {
        "secretKeyRef": {"name": "ledger", "key": "dispatcher-url"}
    }
    assert "envFrom" not in sidecar
    assert "signing" in {one["name"] for one in sidecar["volumeMounts"]}
    assert variables(sidecar)["HOLDFAST_SECRETS_DIR"] == "/etc/holdfast/signing"
    assert "shareProcessNamespace" not in pod


def test_every_role_gets_its_own_url_and_only_the_migration_the_owners() -> None:
    found = {
        name: variables(one).get("HOLDFAST_DATABASE_URL", {}).get("secretKeyRef", {}).get("key")
        for name, one in rendered("full").containers().items()
    }
    assert found == {
        "hf-invoker/invoker": "invoker-url",
        "hf-checkpoint/checkpoint": "checkpoint-url",
        "hf-approval/approval": "approval-url",
        "hf-dispatcher/dispatcher": "dispatcher-url",
        "hf-runner-main/dispatcher": "dispatcher-url",
        "hf-runner-main/runner": None,
        "hf-migrate-before/migrate": "owner-url",
        "hf-migrate-after/migrate": "owner-url",
        "hf-test/test": None,
    }


def test_a_pools_image_is_the_runners_alone_for_a_sidecar_runs_no_code_of_agents() -> None:
    containers = rendered("pools").containers()
    assert containers["hf-holdfast-runner-support/runner"]["image"] == "support:2026.11"
    assert containers["hf-holdfast-runner-support/dispatcher"]["image"] == "holdfast:0.1.0"
    assert containers["hf-holdfast-runner-quick/runner"]["image"] == "holdfast:0.1.0"
    assert "hf-holdfast-runner-quick/dispatcher" not in containers


def test_a_digest_belongs_to_the_image_it_was_said_of() -> None:
    containers = rendered("full").containers()
    assert containers["hf-invoker/invoker"]["image"] == "images.internal/holdfast:0.1.1"
    assert containers["hf-checkpoint/checkpoint"]["image"].startswith("images.internal/holdfast@sha256:")


def test_probes_ask_the_port_that_the_service_listens_on(manifests: Manifests) -> None:
    for name, container in manifests.containers().items():
        if name.partition("/")[2] not in SERVICES:
            continue
        (port,) = (each["containerPort"] for each in container["ports"] if "metrics" not in each["name"])
        assert variables(container)["HOLDFAST_LISTEN"] == f"0.0.0.0:{port}", name
        sidecar = container.get("restartPolicy") == "Always"
        probes = {kind: container.get(kind) for kind in ("livenessProbe", "readinessProbe", "startupProbe")}
        assert (probes.pop("startupProbe") is None) is sidecar, name
        assert all(one and one["grpc"]["port"] == port for one in probes.values()), name


def test_a_runner_is_ready_when_it_can_be_sent_work_and_alive_before(manifests: Manifests) -> None:
    for name, container in manifests.containers().items():
        service = name.partition("/")[2]
        if service in SERVICES:
            about = {"service": "holdfast.v1.RunnerService"} if service == "runner" else {}
            port = container["livenessProbe"]["grpc"]["port"]
            assert container["livenessProbe"]["grpc"] == {"port": port}, name
            assert container["readinessProbe"]["grpc"] == {"port": port} | about, name


def test_a_pod_gets_more_time_to_stop_than_all_in_it_take(manifests: Manifests) -> None:
    for name, one in manifests.of("Deployment").items():
        pod = one["spec"]["template"]["spec"]
        graces = [
            float(variables(each)["HOLDFAST_DRAIN_GRACE"])
            for each in (*pod.get("initContainers", ()), *pod["containers"])
        ]
        sleep = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert sleep > 0
        # A service drains, and then waits for the calls that are open: twice its grace.
        assert pod["terminationGracePeriodSeconds"] > sleep + sum(2 * math.ceil(each) for each in graces), (
            name
        )


def test_replicas_are_left_to_the_autoscaler_where_there_is_one() -> None:
    full = rendered("full")
    replicas = {name: one["spec"].get("replicas") for name, one in full.of("Deployment").items()}
    assert replicas == {
        "hf-invoker": None,
        "hf-checkpoint": 5,
        "hf-approval": None,
        "hf-dispatcher": None,
        "hf-runner-main": None,
    }
    scaled = full.of("HorizontalPodAutoscaler")
    assert set(scaled) == {"hf-invoker", "hf-approval", "hf-dispatcher"}
    assert (scaled["hf-invoker"]["spec"]["minReplicas"], scaled["hf-invoker"]["spec"]["maxReplicas"]) == (
        3,
        6,
    )
    (by_keda,) = full.of("ScaledObject").values()
    assert by_keda["spec"]["scaleTargetRef"] == {"name": "hf-runner-main"}
    assert by_keda["spec"]["triggers"][0]["type"] == "cron"


def test_no_replicas_and_a_sidecar_turned_off_are_not_taken_for_nothing_said() -> None:
    quick = rendered("pools").of("Deployment")["hf-holdfast-runner-quick"]["spec"]
    assert quick["replicas"] == 0
    assert "initContainers" not in quick["template"]["spec"]
    (test,) = rendered("pools").of("Pod").values()
    assert "quick" not in json.dumps(test["spec"]["containers"][0]["args"][1:])  # nobody would answer


def test_a_pool_keeps_what_it_did_not_say_from_runners_and_these_from_all() -> None:
    found = rendered("pools").containers()["hf-holdfast-runner-research/runner"]
    assert found["resources"] == {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}}
    assert variables(found)["HOLDFAST_SLOTS"] == "16"
    assert (
        variables(rendered("pools").containers()["hf-holdfast-runner-support/runner"])["HOLDFAST_SLOTS"]
        == "256"
    )


def test_disruption_budgets_and_spread_pick_the_pods_of_their_deployment(manifests: Manifests) -> None:
    deployments = manifests.of("Deployment")
    for name, budget in manifests.of("PodDisruptionBudget").items():
        assert budget["spec"]["selector"] == deployments[name]["spec"]["selector"]
        assert budget["spec"]["maxUnavailable"] == 1
    for name, one in deployments.items():
        labels = one["spec"]["template"]["metadata"]["labels"]
        selector = one["spec"]["selector"]["matchLabels"]
        assert selector.items() <= labels.items(), name
        for spread in one["spec"]["template"]["spec"].get("topologySpreadConstraints", ()):
            assert spread["labelSelector"]["matchLabels"] == selector


def test_what_is_turned_off_is_not_made() -> None:
    full = rendered("full")
    assert "hf-approval" not in full.of("PodDisruptionBudget")
    assert "topologySpreadConstraints" not in full.of("Deployment")["hf-approval"]["spec"]["template"]["spec"]
    assert not rendered("minimal").of("GRPCRoute")
    assert not rendered("minimal", "networkPolicy.enabled=false").of("NetworkPolicy")
    assert not rendered("minimal", "migration.enabled=false").of("Job")
    assert "hf-holdfast-dispatcher" not in rendered("pools").of("Service")


def test_services_are_headless_and_found_by_the_runners(manifests: Manifests) -> None:
    services = manifests.of("Service")
    assert set(services) == set(manifests.of("Deployment"))
    known = set()
    for name, service in services.items():
        assert service["spec"]["clusterIP"] == "None"
        assert (
            service["spec"]["selector"] == manifests.of("Deployment")[name]["spec"]["selector"]["matchLabels"]
        )
        known.add(f"{name}.prod.svc:{service['spec']['ports'][0]['port']}")
    for container in manifests.containers().values():
        told = {key: value for key, value in variables(container).items() if key.endswith("_ADDRESS")}
        assert set(told.values()) <= known
        assert len(told) == (3 if container["name"] == "runner" else 0)


def test_a_runner_tells_invokers_the_address_of_its_pod() -> None:
    environment = rendered("minimal").containers()["hf-holdfast-runner-main/runner"]["env"]
    names = [one["name"] for one in environment]
    assert names.index("POD_IP") < names.index("HOLDFAST_ADVERTISE")  # else it is not put in
    assert {one["name"]: one.get("value") for one in environment}["HOLDFAST_ADVERTISE"] == "$(POD_IP):7403"


def test_migrations_are_hooks_around_the_rollout_with_the_platforms_image() -> None:
    jobs = rendered("full").of("Job")
    hooks = {name: one["metadata"]["annotations"]["helm.sh/hook"] for name, one in jobs.items()}
    assert hooks == {
        "hf-migrate-before": "pre-install,pre-upgrade",
        "hf-migrate-after": "post-install,post-upgrade",
    }
    for phase in ("before", "after"):
        (container,) = jobs[f"hf-migrate-{phase}"]["spec"]["template"]["spec"]["containers"]
        assert container["args"] == ["db", "migrate", "--phase", phase]
        assert "@sha256:" in container["image"]
    # Before the first installation nothing of the chart is there, its accounts among it.
    accounts = {one["spec"]["template"]["spec"]["serviceAccountName"] for one in jobs.values()}
    assert accounts == {"default"}


def test_a_rendering_does_not_change_from_one_time_to_the_next() -> None:
    assert template("pools") == template("pools")


def test_the_notes_say_how_to_call_it(told: Any) -> None:
    notes = told("minimal")
    assert "grpcurl -plaintext 127.0.0.1:7401 list" in notes
    assert "helm test hf --namespace prod" in notes
    assert "hf-holdfast-runner-main  hello:app" in notes
    assert "WARNING" not in notes
    assert "WARNING" in told("minimal", "networkPolicy.enabled=false")
