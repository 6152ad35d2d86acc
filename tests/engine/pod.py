"""A pod that podman plays, and what a kubelet does for it: probes, and the order in which it is stopped."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.engine import played
from tests.engine.engine import EngineError, logs, podman

PATIENCE_S: Final = 90.0
_BETWEEN_PROBES_S: Final = 0.2
"""A kubelet asks less often, and so finds a pod ready later: it is not made easier here."""


async def play(*arguments: str | Path, given: str | None = None) -> str:
    """Run podman beside what else goes on; what has begun is waited for, always. Raises `EngineError`."""
    playing = asyncio.create_task(asyncio.to_thread(podman, *arguments, given=given))
    try:
        return await asyncio.shield(playing)
    except asyncio.CancelledError:
        await asyncio.wait([playing])
        raise


@dataclass(frozen=True)
class Network:
    """Where pods have addresses, and names are told at the gateway."""

    name: str
    gateway: str
    namespace: str


@dataclass(frozen=True)
class Pod:
    """A pod under its own name; `template` is what the chart says of it."""

    name: str
    address: str
    template: Mapping[str, Any]

    async def start(self, network: Network) -> None:
        """Play it. Raises `EngineError`."""
        manifest = played.made(
            self.name, self.template, address=self.address, namespace=network.namespace, dns=network.gateway
        )
        place = ("--network", network.name, "--ip", self.address)
        await play("kube", "play", *place, "-", given=json.dumps(manifest))

    @property
    def main(self) -> Sequence[Mapping[str, Any]]:
        """Its containers but for sidecars."""
        return list(self.template["spec"]["containers"])

    @property
    def sidecars(self) -> Sequence[Mapping[str, Any]]:
        """Those that start first and end last."""
        return list(self.template["spec"].get("initContainers", []))

    async def ready(self) -> None:
        """Wait until every container has started and is ready; `TimeoutError` says which is not."""
        for container in (*self.sidecars, *self.main):
            for kind in ("startupProbe", "readinessProbe"):
                if kind in container:
                    await self._until(container["name"], container[kind])

    async def _until(self, name: str, probe: Mapping[str, Any]) -> None:
        ahead = time.monotonic() + PATIENCE_S
        while not await _asked(self.address, probe):
            if time.monotonic() > ahead:
                raise TimeoutError(f"{self.name}/{name} is not ready: {await self.logs()}")
            await asyncio.sleep(_BETWEEN_PROBES_S)

    async def stop(self) -> dict[str, int]:
        """Stop it as a kubelet does: first what is done before, sidecars last; return the exit codes.

        Whatever is not over within the pod's grace is killed (137).
        """
        ahead = time.monotonic() + self.template["spec"]["terminationGracePeriodSeconds"]
        await asyncio.gather(*(self._stop(each, ahead) for each in self.main))
        await asyncio.gather(*(self._stop(each, ahead) for each in self.sidecars))
        return {each["name"]: await self._code(each["name"]) for each in (*self.main, *self.sidecars)}

    async def _stop(self, container: Mapping[str, Any], ahead: float) -> None:
        before = container.get("lifecycle", {}).get("preStop")
        if before is not None:
            await asyncio.sleep(before["sleep"]["seconds"])
        left = max(0, round(ahead - time.monotonic()))
        await play("stop", "--time", str(left), self._named(container["name"]))

    async def ended(self) -> int:
        """Wait for the end of a pod that ends by itself; return the exit code of its one container."""
        (container,) = self.main
        return int(await play("wait", self._named(container["name"])))

    async def logs(self) -> str:
        """Return what its containers have said."""
        names = [self._named(each["name"]) for each in (*self.sidecars, *self.main)]
        return "\n".join([await asyncio.to_thread(logs, name) for name in names])

    async def remove(self) -> None:
        """Take it away, in whatever state it is. Repeatable."""
        with suppress(EngineError):
            await play("pod", "rm", "--force", "--time", "0", self.name)
        volumes = [f"{self.name}-{each['name']}" for each in self.template["spec"].get("volumes", [])]
        with suppress(EngineError):
            await play("volume", "rm", "--force", *volumes)

    def _named(self, container: str) -> str:
        return f"{self.name}-{container}"

    async def _code(self, container: str) -> int:
        return int(await play("inspect", "--format", "{{.State.ExitCode}}", self._named(container)))


async def _asked(address: str, probe: Mapping[str, Any]) -> bool:
    """Ask once what a probe asks."""
    timeout = float(probe.get("timeoutSeconds", 1))
    if "grpc" in probe:
        async with grpc.aio.insecure_channel(f"{address}:{probe['grpc']['port']}") as channel:
            try:
                request = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
                answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout)
            except grpc.aio.AioRpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    asked = probe["httpGet"]
    headers = {each["name"]: each["value"] for each in asked.get("httpHeaders", [])}
    async with httpx.AsyncClient(timeout=timeout, trust_env=False) as client:
        try:
            answered = await client.get(f"http://{address}:{asked['port']}{asked['path']}", headers=headers)
        except httpx.HTTPError:
            return False
    return 200 <= answered.status_code < 400
