"""`holdfast doctor`: sentences about what is not well, exit code 1 if anything is not."""

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from holdfast.cli import exit_code
from holdfast.cli.database import known_database, unreachable
from holdfast.cli.output import json_line
from holdfast.cli.target import Target, speaks
from holdfast.dev.record import find_record

GRPCIO: Final = "1.82.2"
MOST_CLOCK_DIFFERENCE_S: Final = 1.0
_PATIENCE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `well` None where there was nothing to look at."""

    about: str
    well: bool | None
    sentence: str


@click.command()
@click.option("--database-url", help="The ledger (or HOLDFAST_DATABASE_URL).")
@speaks
async def command(target: Target, database_url: str | None) -> int:
    """Say what is wrong with this installation and the services it reaches; exit code 1 if anything is."""
    well = True
    async for finding in _findings(target, database_url):
        well = well and finding.well is not False
        if target.form == "json":
            json_line(finding)
        else:
            mark = {True: ("ok  ", "green"), False: ("BAD ", "red"), None: ("--  ", "white")}[finding.well]
            click.echo(f"{click.style(mark[0], fg=mark[1])}{finding.about:<12}{finding.sentence}")
    return exit_code.OK if well else exit_code.UNWELL


async def _findings(target: Target, database_url: str | None) -> AsyncIterator[Finding]:
    yield _python()
    yield _grpc()
    async for finding in _ledger(known_database(database_url)):
        yield finding
    record = find_record(Path.cwd()) or {}
    services = {"invoker": target.invoker, "checkpoint": target.checkpoint, "dispatcher": target.dispatcher}
    services |= {name: str(record[name]) for name in ("runner", "approval") if name in record}
    for finding in await asyncio.gather(*(_health(name, address) for name, address in services.items())):
        yield finding


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    well = sys.version_info >= (3, 11)
    return Finding("python", well, f"{version}{'' if well else ' is too old: Holdfast needs 3.11 or newer'}.")


def _grpc() -> Finding:
    import grpc

    version = str(grpc.__version__)
    if version == GRPCIO:
        return Finding("grpcio", True, f"{version}.")
    return Finding("grpcio", False, f"{version} is installed, and {GRPCIO} is the one that is proven here.")


async def _ledger(url: str | None) -> AsyncIterator[Finding]:
    if url is None:
        yield Finding("ledger", None, "no database is named: say --database-url to have it looked at.")
        return
    import asyncpg

    from holdfast.ledger.migrate import MigrationError, status

    try:
        connection = await asyncpg.connect(url, timeout=_PATIENCE_S)
        try:
            asked = datetime.now(UTC)
            theirs = await connection.fetchval("SELECT clock_timestamp()")
            ours = asked + (datetime.now(UTC) - asked) / 2
        finally:
            await connection.close()
        missing = [one.name for one in await status(url) if one.apply_time is None]
    except MigrationError as error:
        yield Finding("ledger", False, str(error))
        return
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        yield Finding("ledger", False, unreachable(error) or str(error))
        return
    if missing:
        yield Finding("ledger", False, f"lacks {', '.join(missing)}: run `holdfast db migrate`.")
    else:
        yield Finding("ledger", True, "reachable and migrated.")
    difference = abs((theirs - ours).total_seconds())
    well = difference <= MOST_CLOCK_DIFFERENCE_S
    more = "" if well else ": deadlines go by the database's, so set one of them right"
    yield Finding("clock", well, f"{difference * 1000:.0f} ms between this machine and the database{more}.")


async def _health(service: str, address: str) -> Finding:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from holdfast.client.channel import open_channel

    async with open_channel(address) as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE_S)
        except grpc.aio.AioRpcError as failure:
            return Finding(service, False, f"does not answer at {address} ({failure.code().name}).")
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return Finding(service, True, f"serving at {address}.")
    word = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return Finding(service, False, f"is {word} at {address}.")
