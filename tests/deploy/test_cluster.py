"""A real API server takes the chart, changes it and takes it away, and lets each of its pods in."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.chart import CHART, VALUES, Manifests, decoded, helm
from tests.support.cluster import Cluster, cluster, needs_cluster

pytestmark = [needs_cluster, pytest.mark.timeout(600)]
VERSION = "1.34.0"
FILES = sorted(file.stem for file in VALUES.glob("*.yaml"))
NOISE = '299 - "spec.SessionAffinity is ignored for headless services"'
"""Said of each of them: the server means its own default."""
RESTRICTED = {f"pod-security.kubernetes.io/{what}": "restricted" for what in ("enforce", "warn")}
GENERIC = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run an API server with what somebody's cluster has besides."""
    with cluster(tmp_path_factory.mktemp("cluster")) as one:
        one.create(_cluster_wide("scheduling.k8s.io/v1", "PriorityClass", "agents", value=1000))
        yield one


@pytest.fixture
def namespace(server: Cluster) -> str:
    """Make a namespace where only pods of Pod Security's restricted standard get in."""
    name = f"n-{uuid.uuid4()}"
    server.create(_cluster_wide("v1", "Namespace", name, labels=RESTRICTED))
    # What a controller would make.
    about = {"name": "default", "namespace": name}
    server.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": about})
    return name


def _cluster_wide(api: str, kind: str, name: str, *, labels: Any = None, **more: Any) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "labels": labels or {}}, **more}


def rendered(server: Cluster, values: str, namespace: str) -> Manifests:
    """Render for this cluster, and let it know the kinds of others that the chart asks for."""
    given = ("--namespace", namespace, "--values", VALUES / f"{values}.yaml", "--kube-version", VERSION)
    manifests = Manifests(decoded(helm("template", "hf", CHART, *given)))
    for one in manifests.all:
        if not server.knows(one["apiVersion"], one["kind"]):
            _declare(server, one["apiVersion"], one["kind"])
    return manifests


def _declare(server: Cluster, api: str, kind: str) -> None:
    group, _, version = api.partition("/")
    plural = f"{kind.lower()}s"
    served = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": GENERIC}}
    spec = {
        "group": group,
        "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
        "scope": "Namespaced",
        "versions": [served],
    }
    kinds = "CustomResourceDefinition"
    manifest = _cluster_wide("apiextensions.k8s.io/v1", kinds, f"{plural}.{group}", spec=spec)
    manifest["metadata"]["annotations"] = {"api-approved.kubernetes.io": "unapproved, for tests"}
    server.create(manifest)
    server.serves(api, kind)


def test_what_the_restricted_standard_forbids_is_not_let_in(server: Cluster, namespace: str) -> None:
    spec = {"containers": [{"name": "one", "image": "one", "securityContext": {"runAsUser": 0}}]}
    about = {"name": "one", "namespace": namespace}
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        server.create({"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec}, dry=True)


@pytest.mark.parametrize("values", FILES)
def test_everything_is_admitted_and_every_pod_is_of_the_restricted_standard(
    server: Cluster, namespace: str, values: str
) -> None:
    manifests = rendered(server, values, namespace)
    for manifest in manifests.all:
        server.create(manifest, dry=True)
        warned = set(server.warned(manifest)) - {NOISE}
        assert not warned, (manifest["kind"], manifest["metadata"]["name"])
    for account in manifests.of("ServiceAccount").values():
        server.create(account)
    for name, pod in manifests.pods().items():
        about = {"name": name, "namespace": namespace, "labels": pod["metadata"].get("labels", {})}
        server.create({"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": pod["spec"]}, dry=True)


def test_it_is_installed_changed_from_any_values_to_any_others_and_taken_away(
    server: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(server.config))
    seen: set[tuple[str, str]] = set()
    for values in ("minimal", *FILES, "minimal"):
        wanted = _stored(rendered(server, values, namespace))
        seen |= {(api, kind) for api, kind, _ in wanted}
        given = ("--namespace", namespace, "--values", VALUES / f"{values}.yaml")
        # No kubelet is here to run the Jobs of hooks.
        helm("upgrade", "--install", "hf", CHART, *given, "--no-hooks")
        assert _found(server, seen, namespace) == wanted
    assert len(seen) > 10
    helm("uninstall", "hf", "--namespace", namespace, "--no-hooks", "--cascade", "background")
    assert _found(server, seen, namespace) == set()


def _stored(manifests: Manifests) -> set[tuple[str, str, str]]:
    """Return what helm stores: all but hooks."""
    return {
        (one["apiVersion"], one["kind"], one["metadata"]["name"])
        for one in manifests.all
        if "helm.sh/hook" not in one["metadata"].get("annotations", {})
    }


def _found(server: Cluster, kinds: set[tuple[str, str]], namespace: str) -> set[tuple[str, str, str]]:
    """Return what is stored, but for what every namespace has."""
    everywhere = {("v1", "ServiceAccount", "default"), ("v1", "ConfigMap", "kube-root-ca.crt")}
    found = {(api, kind, name) for api, kind in kinds for name in server.names(api, kind, namespace)}
    return found - everywhere
