"""The chart's release run by podman: its pods on a network of their own, and what a cluster gives them.

A release needs of others: names (`NameServer`), a PostgreSQL (the embedded one of this machine, which listens
on the network), secrets, and somebody who replaces pods when their Deployment changes (`roll`).
"""

import asyncio
import ipaddress
import itertools
import json
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
from cryptography import x509

from holdfast.client import Client, Tls
from holdfast.embedded import EmbeddedPostgres
from tests.deploy.chart import NAMESPACE, Manifests, decoded, template
from tests.engine import played
from tests.engine.engine import EngineError
from tests.engine.pod import Network, Pod, play
from tests.support.certificate import Authority
from tests.support.name_server import ZONE, NameServer

RELEASE: Final = "hf-holdfast"
ROLES: Final = ("invoker", "checkpoint", "approval", "dispatcher")
PORTS: Final = {"invoker": 7401, "checkpoint": 7402, "approval": 7404, "dispatcher": 7405}
_SECRETS: Final = {
    "ledger": "database.existingSecret",
    "identity": "identity.existingSecret",
    "runners": "identity.runnerSecret",
    "console": "console.existingSecret",
    "certificates": "tls.existingSecret",
}
"""What is in a secret, and the value of the chart that names it."""

_TOKENS: Final = (("runners", "*", "runner"), ("load", "default", "admin"), ("boss", "default", "approve"))
_VALUES: Final = Path(__file__).parent / "values.yaml"
_HBA: Final = "local all all trust\nhost all all samenet scram-sha-256\n"


@dataclass
class Installation:
    """What runs, by the names of Deployments."""

    network: Network
    names: NameServer
    manifests: Manifests
    suffix: str
    folder: Path
    tls: Tls
    pods: dict[str, list[Pod]] = field(default_factory=dict)
    codes: dict[str, dict[str, int]] = field(default_factory=dict)
    """How the containers of pods that were taken out ended, by pod."""
    tokens: dict[str, str] = field(default_factory=dict)
    _number: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _made: list[Pod] = field(default_factory=list)

    def address(self, service: str) -> str:
        """Where clients on this machine find a service: by its name, asked of the pods' own name server."""
        name = f"{RELEASE}-{service}.{self.network.namespace}.{ZONE}"
        return f"dns://{self.network.gateway}:53/{name}:{PORTS[service]}"

    def client(self, who: str, **more: Any) -> Client:
        """Return a client on this machine that shows somebody's token."""
        places: dict[str, Any] = {name: self.address(name) for name in PORTS}
        return Client(places.pop("invoker"), token=self.tokens[who], tls=self.tls, **places, **more)

    async def run(self, name: str) -> str:
        """Play the pod of a Job, or one that stands by itself, to its end; return what it said."""
        pod = await self._played(name, self.manifests.pods()[name])
        code = await pod.ended()
        said = await pod.logs()
        assert code == 0, f"{name} ended with {code}: {said}"
        return said

    async def install(self) -> None:
        """Bring up all Deployments at once, as helm does."""
        for service in self.manifests.of("Service"):
            self.names.addresses[f"{service}.{self.network.namespace}"] = set()
        async with asyncio.TaskGroup() as starting:
            for name, one in self.manifests.of("Deployment").items():
                self.pods[name] = []
                for _ in range(one["spec"]["replicas"]):
                    starting.create_task(self._add(name))

    async def roll(self, name: str) -> None:
        """Replace a Deployment's pods: a new one is ready before an old one goes, which takes its time."""
        async with asyncio.TaskGroup() as leaving:
            for old in list(self.pods[name]):
                await self._add(name)
                leaving.create_task(self._retire(name, old))

    async def _add(self, name: str) -> None:
        pod = await self._played(name, self.manifests.pods()[name])
        await pod.ready()
        self.pods[name].append(pod)
        self._addresses(name).add(pod.address)

    async def _retire(self, name: str, pod: Pod) -> None:
        self.pods[name].remove(pod)
        self._addresses(name).discard(pod.address)
        self.codes[pod.name] = await pod.stop()
        await self._take_away(pod)

    async def _played(self, name: str, one: dict[str, Any]) -> Pod:
        number = next(self._number)
        host = self.network.gateway.rpartition(".")[0]
        pod = Pod(f"{name}-{number}-{self.suffix}", f"{host}.{10 + number}", one)
        self._made.append(pod)
        await pod.start(self.network)
        return pod

    def _addresses(self, name: str) -> set[str]:
        return self.names.addresses[f"{name}.{self.network.namespace}"]

    async def remove(self) -> None:
        """Take away every pod there was, and keep what those that are left have said."""
        await asyncio.gather(*map(self._take_away, self._made))

    async def _take_away(self, pod: Pod) -> None:
        with suppress(EngineError):
            (self.folder / f"{pod.name}.log").write_text(await pod.logs())
        await pod.remove()


@asynccontextmanager
async def installed(folder: Path, base: str) -> AsyncIterator[Installation]:
    """Install the chart, and take all of it away again."""
    suffix = secrets.token_hex(3)
    async with _network(f"holdfast-{suffix}", base) as network, _ledger(network.gateway) as ledger:
        names = NameServer()
        await names.start(network.gateway)
        kept = {name: f"{name}-{suffix}" for name in _SECRETS}
        tls = _certified(folder, network)
        installation = Installation(network, names, _rendered(kept), suffix, folder, tls)
        try:
            await _keep(kept["ledger"], ledger, of_variables=True)
            await installation.run(f"{RELEASE}-migrate-before")
            for name, whose, role in _TOKENS:
                installation.tokens[name] = await _token(folder, ledger["owner"], name, whose, role)
            await _keep(kept["certificates"], _shown(tls))
            await _keep(kept["identity"], {"capability-key": secrets.token_hex(32)})
            await _keep(kept["console"], {"console-secret": secrets.token_hex(32)})
            await _keep(kept["runners"], {"token": installation.tokens["runners"]})
            await installation.install()
            await installation.run(f"{RELEASE}-migrate-after")
            yield installation
        finally:
            await installation.remove()
            names.stop()
            await _forget(kept.values())


def _rendered(kept: dict[str, str]) -> Manifests:
    return Manifests(decoded(template(_VALUES, *(f'{_SECRETS[one]}="{name}"' for one, name in kept.items()))))


def _shown(tls: Tls) -> dict[str, str]:
    files = {"ca.crt": tls.ca, "tls.crt": tls.cert, "tls.key": tls.key}
    return {name: Path(str(file)).read_text() for name, file in files.items()}


def _certified(folder: Path, network: Network) -> Tls:
    """Make a certificate as cert-manager does: for the names of all Services, and the addresses of pods."""
    names = [f"*.{network.namespace}.svc", f"*.{network.namespace}.{ZONE}"]
    addresses = ipaddress.ip_network(f"{network.gateway}/24", strict=False)
    authority = Authority(folder)
    cert, key = authority.issue("tls", *map(x509.DNSName, names), *map(x509.IPAddress, addresses.hosts()))
    return Tls(authority.ca, cert, key)


@asynccontextmanager
async def _network(name: str, base: str) -> AsyncIterator[Network]:
    """Make a network; a container that does nothing keeps its gateway on this machine."""
    await play("network", "create", "--disable-dns", name)
    try:
        (told,) = json.loads(await play("network", "inspect", name))
        await play("run", "--detach", "--rm", "--name", name, "--network", name, base, "sleep", "infinity")
        yield Network(name, told["subnets"][0]["gateway"], NAMESPACE)
    finally:
        await play("network", "rm", "--force", "--time", "0", name)


@asynccontextmanager
async def _ledger(host: str) -> AsyncIterator[dict[str, str]]:
    """Run a PostgreSQL that pods reach, with the roles of docs/operating.md; yields a URL for each."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as hba:
        hba.write(_HBA)
        hba.flush()
        Path(hba.name).chmod(0o644)  # PostgreSQL's account has to read it
        async with EmbeddedPostgres(
            ephemeral=True, settings={"listen_addresses": host, "hba_file": hba.name}
        ) as server:
            words = {role: secrets.token_hex(8) for role in ("owner", *ROLES)}
            connection = await asyncpg.connect(server.url("postgres"))
            for role, word in words.items():
                await connection.execute(f"CREATE ROLE holdfast_{role} LOGIN PASSWORD '{word}'")
            await connection.execute("CREATE DATABASE holdfast OWNER holdfast_owner")
            await connection.close()
            place = f"{host}:5432/holdfast"
            yield {role: f"postgresql://holdfast_{role}:{word}@{place}" for role, word in words.items()}


async def _keep(name: str, data: dict[str, str], *, of_variables: bool = False) -> None:
    await play("secret", "create", name, "-", given=played.secret(data, of_variables=of_variables))


async def _forget(names: Iterable[str]) -> None:
    for name in names:
        for kind in ("secret", "volume"):  # podman gives the volume of a secret the secret's name
            with suppress(EngineError):
                await play(kind, "rm", name)


async def _token(folder: Path, url: str, name: str, whose: str, role: str) -> str:
    """Make a token as whoever owns the ledger does."""
    file = folder / f"{name}.token"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "holdfast.cli", "tokens", "create", name),
        *("--for", whose, "--role", role),
        *("--database-url", url, "--out", str(file)),
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0
    return file.read_text().strip()
