"""A real broker of Apache Kafka in KRaft mode, to be killed and to come back with what it had."""

import asyncio
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.structs import TopicPartition

_TOOLS: Final = Path(__file__).parents[2] / ".tools" / "kafka"
_JAVA: Final = shutil.which("java")
needs_kafka: Final = pytest.mark.skipif(
    _JAVA is None or not (_TOOLS / "pom.xml").exists(),
    reason="there is no Kafka: `make kafka` fetches it where Java and Maven are at hand",
)
_PATIENCE_S: Final = 120.0
_FLAGS: Final = "-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
_CLUSTER: Final = "Q0hPTERGQVNUAAAAAAAAAA"
_CONFIG: Final = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=CONTROLLER://127.0.0.1:{controller},OPEN://127.0.0.1:{port},GUARDED://127.0.0.1:{guarded}
advertised.listeners=OPEN://127.0.0.1:{port},GUARDED://127.0.0.1:{guarded}
inter.broker.listener.name=OPEN
listener.security.protocol.map=CONTROLLER:PLAINTEXT,OPEN:PLAINTEXT,GUARDED:{protocol}
log.dirs={data}
auto.create.topics.enable=true
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
log.cleaner.enable=false
message.max.bytes=5000000
"""


class KafkaServer:
    """A broker on ports of its own: an open one, and a guarded one as `protocol` and `config` say."""

    def __init__(self, folder: Path, *, protocol: str = "PLAINTEXT", config: str = "") -> None:
        self.port, self.guarded, controller = _free_ports(3)
        self.address = f"127.0.0.1:{self.port}"
        self._log = folder / "kafka.log"
        self._file = folder / "kafka.properties"
        self._file.write_text(
            _CONFIG.format(
                port=self.port,
                guarded=self.guarded,
                controller=controller,
                protocol=protocol,
                data=folder / "kafka",
            )
            + config
        )
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self, *scram: str) -> None:
        """Make its folder, with what users there are."""
        added = [word for one in scram for word in ("--add-scram", one)]
        words = "kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(self._file), *added
        assert self._java(*words).wait(_PATIENCE_S) == 0, self._last_words()

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._process = self._java("kafka.Kafka", str(self._file))
        late = time.monotonic() + _PATIENCE_S
        while time.monotonic() < late:
            assert self._process.poll() is None, self._last_words()
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise TimeoutError(self._last_words())

    def kill(self) -> None:
        """Kill it (SIGKILL) and wait until it is gone. Repeatable."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def stop(self, *, still: bool) -> None:
        """Let it stand still (SIGSTOP), or go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if still else signal.SIGCONT)

    async def make(self, partitions: int, name: str = "") -> "Topic":
        """Make a topic."""
        topic = Topic(self, name or f"orders-{secrets.token_hex(4)}")
        async with self.admin() as admin:
            await admin.create_topics([NewTopic(topic.name, partitions, 1)])
        return topic

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[Any]:
        """Administer it."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.address)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    @asynccontextmanager
    async def producer(self, **settings: Any) -> AsyncIterator[Any]:
        """Write to it."""
        producer = AIOKafkaProducer(bootstrap_servers=self.address, **settings)
        await producer.start()
        try:
            yield producer
        finally:
            await producer.stop()

    def _java(self, *words: str) -> subprocess.Popen[bytes]:
        assert _JAVA is not None
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [_JAVA, *_FLAGS, "-cp", str(_TOOLS / "*"), *words], stdout=log, stderr=log
            )

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]


@dataclass(frozen=True)
class Topic:
    """A topic of a broker, and the group that reads it."""

    server: KafkaServer
    name: str

    @property
    def group(self) -> str:
        """Of those who read it in a test."""
        return f"of-{self.name}"

    async def write(
        self,
        *values: bytes | None,
        partition: int | None = None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        **settings: Any,
    ) -> None:
        """Write messages in order, acknowledged."""
        async with self.server.producer(**settings) as producer:
            sent = [
                await producer.send(self.name, value, key=key, partition=partition, headers=list(headers))
                for value in values
            ]
            await asyncio.gather(*sent)

    async def committed(self) -> dict[int, int]:
        """Return what the group has committed by partition; nothing if the broker is too young to know."""
        async with self.server.admin() as admin:
            try:
                found: dict[TopicPartition, Any] = await admin.list_consumer_group_offsets(self.group)
            except GroupCoordinatorNotAvailableError:
                return {}
        return {place.partition: told.offset for place, told in found.items() if place.topic == self.name}


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports


@contextmanager
def kafka_server(
    folder: Path, *, protocol: str = "PLAINTEXT", config: str = "", scram: Sequence[str] = ()
) -> Iterator[KafkaServer]:
    """Run a broker for a block."""
    server = KafkaServer(folder, protocol=protocol, config=config)
    server.prepare(*scram)
    server.start()
    try:
        yield server
    finally:
        server.kill()
