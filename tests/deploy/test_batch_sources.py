"""The sources of batches' items are declared for Invokers alone, and so are the URLs and the way to them."""

import json
import tomllib

from holdfast.invoker.item_source import item_sources_of
from tests.deploy.chart import rendered, variables


def test_invokers_alone_know_the_sources_and_reach_their_databases() -> None:
    manifests = rendered("full")
    pod = manifests.of("Deployment")["hf-invoker"]["spec"]["template"]
    (invoker,) = pod["spec"]["containers"]
    told = variables(invoker)
    assert told["HOLDFAST_BATCH_SOURCES_FILE"] == "/etc/holdfast/batch-sources/sources.toml"
    assert told["HOLDFAST_SECRETS_DIR"] == "/etc/holdfast/batch-secrets"
    assert {"batch-sources", "batch-secrets"} <= {one["name"] for one in invoker["volumeMounts"]}
    secret = next(one["secret"] for one in pod["spec"]["volumes"] if one["name"] == "batch-secrets")
    assert secret == {"secretName": "crm-urls", "items": [{"key": "crm-reader", "path": "crm"}]}
    declared = manifests.of("ConfigMap")["hf-invoker-batch-sources"]["data"]["sources.toml"]
    assert item_sources_of(tomllib.loads(declared))["accounts"].database == "crm"
    assert pod["metadata"]["annotations"]["checksum/batch-sources"]
    for name, one in manifests.of("Deployment").items():
        assert ("crm-urls" in json.dumps(one)) is (name == "hf-invoker"), name
    for name, one in manifests.of("NetworkPolicy").items():
        assert ("10.30.0.0/16" in json.dumps(one)) is (name == "hf-invoker"), name


def test_without_declarations_there_is_nothing_of_them() -> None:
    assert "batch-s" not in json.dumps(rendered("minimal").of("Deployment"))
