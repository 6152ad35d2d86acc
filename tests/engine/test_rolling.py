"""The rendered chart runs, and all of it is replaced under load: nobody notices, or joins again by itself."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from examples.standins.webhook_receiver import WebhookReceiver
from holdfast.client import Destination, Retries
from holdfast.client.errors import Unavailable
from tests.engine import image
from tests.engine.engine import needs_engine, podman
from tests.engine.installation import RELEASE, Installation, installed
from tests.engine.load import PATIENCE_S, Load
from tests.engine.played import PODMAN
from tests.engine.pod import Pod, play
from tests.support.relay import Relay

pytestmark = [needs_engine, pytest.mark.timeout(900)]
AGENTS = Path(__file__).parent / "agents"
IN_TURN = ("checkpoint", "invoker", "approval", "dispatcher", "runner-main", "console")
CONFINED = """
import os
status = dict(line.split(":\\t", 1) for line in open("/proc/1/status").read().splitlines())
assert status["Uid"].split() == ["10001"] * 4
assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
assert {int(status[each], 16) for each in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
assert os.statvfs("/").f_flag & os.ST_RDONLY
open("/tmp/written", "w").close()
"""


class Clock:
    """Says how long what was done took."""

    def __init__(self) -> None:
        self._then = time.monotonic()
        self._told: list[str] = []

    def passed(self, what: str) -> None:
        """Something is done."""
        now = time.monotonic()
        self._told.append(f"{what} in {now - self._then:.0f} s")
        self._then = now

    def __str__(self) -> str:
        return ", ".join(self._told)


@asynccontextmanager
async def called(installation: Installation, receiver: WebhookReceiver) -> AsyncIterator[Load]:
    """Let effects go to a receiver on this machine, and have everybody call for the block."""
    async with (
        Relay(receiver.url.removeprefix("http://"), installation.network.gateway) as relay,
        installation.client("load") as client,
        installation.client("load", retries=Retries(attempts=1)) as impatient,
        installation.client("boss") as boss,
    ):
        await client.outbox.put_destination(Destination("sink", f"http://{relay.address}/sink"))
        load = Load(client, impatient, boss)
        async with load.going_on():
            yield load
        await delivered(load.effects, receiver)


async def delivered(keys: set[str], receiver: WebhookReceiver) -> None:
    """Wait until a receiver has been told everything."""
    async with asyncio.timeout(PATIENCE_S):
        while keys - {each.idempotency_key for each in receiver.deliveries}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def confined(pod: Pod) -> None:
    """See that the chart's security contexts hold for every container of a pod."""
    for container in (*pod.sidecars, *pod.main):
        await play("exec", f"{pod.name}-{container['name']}", "python", "-c", CONFINED)


@pytest.mark.usefixtures("holdfast")
async def test_all_pods_are_replaced_under_load_and_no_caller_fails(
    tmp_path: Path, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (version := podman("version", "--format", "{{.Client.Version}}")).startswith(f"{PODMAN}."):
        pytest.skip(f"what podman cannot play is known of {PODMAN}, and this is {version}")
    image.agents("holdfast-engine", AGENTS)
    clock = Clock()
    async with installed(tmp_path, base) as installation, WebhookReceiver() as receiver:
        clock.passed("installed")
        await installation.run(f"{RELEASE}-test")
        await asyncio.gather(*(confined(pod) for pods in installation.pods.values() for pod in pods))
        async with called(installation, receiver) as load:
            for name in IN_TURN:
                await installation.roll(f"{RELEASE}-{name}")
            clock.passed("rolled in turn")
            # As helm does it when the chart's version changes.
            async with asyncio.TaskGroup() as rolling:
                for name in installation.pods:
                    rolling.create_task(installation.roll(name))
            clock.passed("rolled at once")
    clock.passed("removed")
    with capsys.disabled():
        sys.stdout.write(f"\n{dict(load.done)}, streams joined again: {len(load.rejoined)}; {clock}\n")
        sys.stdout.write(f"{len(load.effects)} effects, {len(receiver.deliveries)} deliveries\n")
    assert load.failed == []
    # Who repeats nothing meets a pod that ends at most once: until then it went on for those who still came.
    assert len(load.refused) <= len(installation.codes)
    assert [each for each in load.refused if not isinstance(each.error, Unavailable)] == []
    # What outlasts a pod's grace is told to go elsewhere, and does; three conversations outlast all Invokers.
    assert len(load.rejoined) >= 3
    assert [each for each in load.rejoined if not isinstance(each.error, Unavailable)] == []
    # Everything ended by itself, within its grace.
    codes = {name: code for pod in installation.codes.values() for name, code in pod.items()}
    assert codes.keys() == {"checkpoint", "invoker", "approval", "dispatcher", "runner", "console"}
    assert [pod for pod, ended in installation.codes.items() if any(ended.values())] == []
    # Every effect took place once by its key, and nothing else did.
    took_place = Counter(each.idempotency_key for each in receiver.deliveries if each.applied)
    assert took_place == Counter(load.effects)
