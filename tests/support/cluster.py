"""Kubernetes' API server on loopback, with its etcd: it admits and stores, and runs nothing."""

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

_TOOLS: Final = Path(__file__).parents[2] / ".tools/bin"
_TOKEN: Final = "admin-of-the-tests"
_PATIENCE_S: Final = 120.0
needs_cluster: Final = pytest.mark.skipif(
    not all((_TOOLS / name).exists() for name in ("etcd", "kube-apiserver")),
    reason="there is no API server in .tools/bin: `make cluster-tools` builds one where Go is at hand",
)


class Cluster:
    """What a user of kubectl could do, as JSON."""

    def __init__(self, url: str, folder: Path) -> None:
        self._client = httpx.Client(
            base_url=url,
            verify=False,
            trust_env=False,
            timeout=60.0,
            headers={"Authorization": f"Bearer {_TOKEN}"},
        )
        self.config = folder / "kubeconfig"
        self.config.write_text(json.dumps(_kubeconfig(url)))
        self._paths: dict[tuple[str, str], tuple[str, bool]] = {}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ready(self) -> bool:
        """Say whether it serves, all it needs at its start done."""
        with contextlib.suppress(httpx.TransportError):
            return self._client.get("/readyz").status_code == httpx.codes.OK
        return False

    def create(self, manifest: Mapping[str, Any], *, dry: bool = False) -> dict[str, Any]:
        """Create an object, or only have it admitted. Raises `AssertionError`, also for an unknown field."""
        options = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry else {})
        answer = self._client.post(self._path(manifest), params=options, json=manifest)
        assert answer.is_success, (manifest["kind"], manifest["metadata"]["name"], answer.text)
        told: dict[str, Any] = answer.json()
        return told

    def warned(self, manifest: Mapping[str, Any]) -> list[str]:
        """Return of what an object's creation would be warned."""
        answer = self._client.post(self._path(manifest), params={"dryRun": "All"}, json=manifest)
        return answer.headers.get_list("warning")

    def names(self, api: str, kind: str, namespace: str) -> set[str]:
        """Return the names of the objects of a kind."""
        path = self._path({"apiVersion": api, "kind": kind, "metadata": {"namespace": namespace}})
        answer = self._client.get(path)
        assert answer.is_success, answer.text
        return {one["metadata"]["name"] for one in answer.json()["items"]}

    def knows(self, api: str, kind: str) -> bool:
        """Say whether there are such objects."""
        return any(found == (api, kind) for found in self._known(api))

    def serves(self, api: str, kind: str) -> None:
        """Wait until there can be such objects."""
        until = time.monotonic() + _PATIENCE_S
        while not self.knows(api, kind):
            assert time.monotonic() < until, (api, kind)
            time.sleep(0.1)

    def _path(self, manifest: Mapping[str, Any]) -> str:
        api, kind = manifest["apiVersion"], manifest["kind"]
        if (api, kind) not in self._paths:
            self._paths |= self._known(api)
        plural, namespaced = self._paths[api, kind]
        place = f"namespaces/{manifest['metadata']['namespace']}/" if namespaced else ""
        return f"{_root(api)}/{place}{plural}"

    def _known(self, api: str) -> dict[tuple[str, str], tuple[str, bool]]:
        """Return by kind what objects are called in paths, and whether a namespace has them."""
        answer = self._client.get(_root(api))
        resources = answer.json()["resources"] if answer.is_success else ()
        whole = (one for one in resources if "/" not in one["name"])
        return {(api, one["kind"]): (one["name"], one["namespaced"]) for one in whole}


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Run an API server for a block; what it logs is in `folder`."""
    etcd, peers, api = (_free() for _ in range(3))
    _write_keys(folder)
    (folder / "tokens.csv").write_text(f"{_TOKEN},admin,1,system:masters\n")
    commands = {
        "etcd": (
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peers}",
            "--unsafe-no-fsync",
        ),
        "kube-apiserver": (
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={api}",
            f"--cert-dir={folder}",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://issuer.test",
            f"--service-account-key-file={folder / 'sa.pub'}",
            f"--service-account-signing-key-file={folder / 'sa.key'}",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--endpoint-reconciler-type=none",
        ),
    }
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(_running(name, options, folder)) for name, options in commands.items()]
        one = Cluster(f"https://127.0.0.1:{api}", folder)
        stack.callback(one.close)
        until = time.monotonic() + _PATIENCE_S
        while not one.ready():
            for name, process in zip(commands, running, strict=True):
                assert process.poll() is None, (folder / f"{name}.log").read_text()[-4000:]
            assert time.monotonic() < until, (folder / "kube-apiserver.log").read_text()[-4000:]
            time.sleep(0.2)
        yield one


@contextlib.contextmanager
def _running(name: str, options: tuple[str, ...], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([_TOOLS / name, *options], stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def _write_keys(folder: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "sa.key").write_bytes(private)
    (folder / "sa.pub").write_bytes(public)


def _kubeconfig(url: str) -> dict[str, Any]:
    server = {"server": url, "insecure-skip-tls-verify": True}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": server}],
        "users": [{"name": "admin", "user": {"token": _TOKEN}}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "admin"}}],
        "current-context": "tests",
    }


def _root(api: str) -> str:
    return "/api/v1" if api == "v1" else f"/apis/{api}"


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
