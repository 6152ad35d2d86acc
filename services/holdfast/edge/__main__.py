"""Runs the edge: `python -m holdfast.edge`."""

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Final, Protocol

from holdfast.edge.declaration import read_sources
from holdfast.edge.intake import Intake
from holdfast.edge.nats_source import NatsReader
from holdfast.edge.serving import serve
from holdfast.edge.settings import EdgeSettings
from holdfast.edge.source import HttpSource, KafkaSource, NatsSource, Source
from holdfast.kit.process import Stop, announce, run_service
from holdfast.kit.secret import SecretMissingError, Secrets
from holdfast.kit.settings import SettingsError, load
from holdfast.kit.telemetry.logs import configure, logger

_log: Final = logger("edge")


class Reader(Protocol):
    """Reads a source."""

    async def run(self, stop: Stop) -> None:
        """Read until `stop`."""


async def main(stop: Stop) -> None:
    """Take events until told to stop."""
    settings = load(EdgeSettings, os.environ)
    configure("edge")
    sources = _sources(settings)
    secrets = Secrets(os.environ, settings.secrets_dir)
    _look_for_secrets(sources, secrets)
    intake = Intake(settings, secrets)
    readers = [*_readers(sources, intake, secrets)]
    reading = [asyncio.create_task(reader.run(stop)) for reader in readers]
    for task in reading:
        task.add_done_callback(lambda _: stop.ask("a source ended"))
    try:
        hooks = [source for source in sources if isinstance(source, HttpSource)]
        await serve(settings, hooks, intake, secrets, stop=stop, ready=partial(announce, "edge"))
        if reading:
            await asyncio.gather(*reading)  # ended by the stop; raises if one ended by a fault
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        await intake.close()


def _look_for_secrets(sources: Sequence[Source], secrets: Secrets) -> None:
    """Say which secrets are not there; they may come later, as mounted files do."""
    for source in sources:
        for name in filter(None, (*source.secrets, source.of.token)):
            try:
                secrets.text(name)
            except SecretMissingError as error:
                _log.warning("a secret is missing", source=source.of.name, error_text=str(error))


def _readers(sources: Sequence[Source], intake: Intake, secrets: Secrets) -> Iterator[Reader]:
    for source in sources:
        if isinstance(source, NatsSource):
            yield NatsReader(source, intake, secrets)
        elif isinstance(source, KafkaSource):
            from holdfast.edge.kafka_source import KafkaReader

            yield KafkaReader(source, intake, secrets)


def _sources(settings: EdgeSettings) -> list[Source]:
    sources = read_sources(settings.sources_file) if settings.sources_file is not None else []
    for source in sources:
        if isinstance(source, HttpSource) and source.verify == "none" and not settings.is_private:
            raise SettingsError(
                f"[http.{source.of.name}] verify is 'none', so whoever reaches {settings.listen} could start "
                "runs: that is for loopback alone."
            )
        if isinstance(source, KafkaSource) and find_spec("aiokafka") is None:
            raise SettingsError(
                f"[kafka.{source.of.name}] needs a library that is not installed: install holdfast[kafka]."
            )
    return sources


if __name__ == "__main__":
    sys.exit(run_service(main, settings=lambda: load(EdgeSettings, os.environ)))
