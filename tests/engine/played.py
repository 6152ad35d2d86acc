"""Manifests as podman can play them. All is left as the chart makes it but what podman 4.3 cannot play:

- Deployments and Jobs: it would make one pod of each, whatever their replicas. Their template becomes a Pod
  for each replica (`made`); `tests.engine.installation` replaces them as a Deployment's controller does.
- Services: it has none. A server of names on this machine stands for the cluster's, and pods are told of it
  by `dnsConfig`, with the search list that a kubelet writes.
- Native sidecars: it would wait for the end of an init container that has none. They come first among
  the containers.
- Probes, and what is done before a stop: it does not know gRPC's, nor `preStop`. They are taken out, and
  `tests.engine.pod` does what they say, as a kubelet does.
- Ports of containers: it would publish each on this machine, where the second pod finds it taken.
- `status.podIP`, and `$(NAME)` in a variable's value: it knows neither. The address is given out ahead and
  filled in.
- Volumes: it has one of each name on the whole machine. Each pod's own have the pod's name before theirs.
- Volumes of secrets: it crashes unless they say whether the secret is optional, and `false` is the default.
- Secrets: it writes what it has of a manifest into volumes without decoding it, and cannot read that for
  variables. Each is stored in the form in which it is read (`secret`).

Of no effect in it, and left as they are: service accounts, the spread over nodes, network policies.
"""

import base64
import copy
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tests.support.name_server import ZONE

PODMAN: Final = "4.3"
_PLAYED_HERE: Final = ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "ports")


def made(name: str, template: Mapping[str, Any], *, address: str, namespace: str, dns: str) -> dict[str, Any]:
    """Return a template as the Pod of this name and address."""
    pod = copy.deepcopy(dict(template))
    spec = pod["spec"]
    sidecars = spec.pop("initContainers", [])
    assert all(each.pop("restartPolicy") == "Always" for each in sidecars)
    spec["containers"] = [*sidecars, *spec["containers"]]
    for container in spec["containers"]:
        for played_here in _PLAYED_HERE:
            container.pop(played_here, None)
        _fill_in(container.get("env", []), address)
        for mount in container.get("volumeMounts", []):
            mount["name"] = f"{name}-{mount['name']}"
    for volume in spec.get("volumes", []):
        volume["name"] = f"{name}-{volume['name']}"
        if "secret" in volume:
            volume["secret"].setdefault("optional", False)
    search = [f"{namespace}.{ZONE}", ZONE, ZONE.partition(".")[2]]
    options = [{"name": "ndots", "value": "5"}]
    spec |= {"dnsPolicy": "None", "dnsConfig": {"nameservers": [dns], "searches": search, "options": options}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**pod["metadata"], "name": name, "namespace": namespace},
        "spec": spec,
    }


def _fill_in(env: Iterable[dict[str, Any]], address: str) -> None:
    values: dict[str, str] = {}
    for variable in env:
        if variable.get("valueFrom") == {"fieldRef": {"fieldPath": "status.podIP"}}:
            del variable["valueFrom"]
            variable["value"] = address
        if "value" in variable:
            variable["value"] = re.sub(
                r"\$\((\w+)\)", lambda found: values.get(found[1], found[0]), variable["value"]
            )
            values[variable["name"]] = variable["value"]


def secret(data: Mapping[str, str], *, of_variables: bool) -> str:
    """Return a secret as `podman secret create` takes it."""
    if of_variables:
        return json.dumps({key: base64.b64encode(value.encode()).decode() for key, value in data.items()})
    return json.dumps({"data": data})
