"""Which suite a command speaks to: as told, as the environment says, or the one running in this folder."""

import asyncio
import functools
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from holdfast.cli import exit_code
from holdfast.cli.output import Form, note, refusal
from holdfast.client import Client, HoldfastError, Retries
from holdfast.dev.record import find_record

USUAL: Final = {
    "invoker": "127.0.0.1:7401",
    "checkpoint": "127.0.0.1:7402",
    "approval": "127.0.0.1:7404",
    "dispatcher": "127.0.0.1:7405",
}
_VARIABLES: Final = {
    "invoker": "HOLDFAST_ADDRESS",
    "checkpoint": "HOLDFAST_CHECKPOINT_ADDRESS",
    "approval": "HOLDFAST_APPROVAL_ADDRESS",
    "dispatcher": "HOLDFAST_DISPATCHER_ADDRESS",
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where the services are, whose tenant we are, and in which form to answer."""

    invoker: str
    checkpoint: str
    dispatcher: str
    approval: str
    tenant: str
    form: Form

    def client(self) -> Client:
        """Return a client of these services."""
        return Client(
            self.invoker,
            tenant=self.tenant,
            dispatcher=self.dispatcher,
            checkpoint=self.checkpoint,
            approval=self.approval,
            retries=Retries(attempts=4),  # a person waits for the sentence
        )


def choose_address(service: str, told: str | None) -> str:
    """Return a service's address: told, from its variable, from the suite running here, or the usual one."""
    if told:
        return told
    if said := os.environ.get(_VARIABLES[service]):
        return said
    record = find_record(Path.cwd()) or {}
    return str(record.get("grpc" if service == "invoker" else service) or USUAL[service])


def speaks(command: Callable[..., Coroutine[Any, Any, int | None]]) -> Callable[..., None]:
    """Make an async command of `command(target, …)`: adds where to speak to, and ends with its exit code."""

    @click.option("--address", metavar="HOST:PORT", help="The Invoker (or HOLDFAST_ADDRESS).")
    @click.option("--dispatcher-address", metavar="HOST:PORT", help="The Dispatcher, for the outbox.")
    @click.option("--checkpoint-address", metavar="HOST:PORT", help="The Checkpoint service.")
    @click.option("--approval-address", metavar="HOST:PORT", help="The Approval service.")
    @click.option(
        "--tenant", envvar="HOLDFAST_TENANT", default="default", show_default=True, help="On whose behalf."
    )
    @click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
    @functools.wraps(command)
    def run(
        *,
        address: str | None,
        dispatcher_address: str | None,
        checkpoint_address: str | None,
        approval_address: str | None,
        tenant: str,
        output: Form,
        **arguments: Any,
    ) -> None:
        target = Target(
            invoker=choose_address("invoker", address),
            checkpoint=choose_address("checkpoint", checkpoint_address),
            dispatcher=choose_address("dispatcher", dispatcher_address),
            approval=choose_address("approval", approval_address),
            tenant=tenant,
            form=output,
        )
        finish(command(target, **arguments))

    return run


def finish(work: Coroutine[Any, Any, int | None]) -> None:
    """Run `work` and end with the exit code it returns; a failure is one sentence on standard error."""
    try:
        code = asyncio.run(work)
    except HoldfastError as error:
        note(f"Error: {refusal(error)}")
        code = exit_code.of_error(error)
    except ValueError as error:
        note(f"Error: {error}")
        code = exit_code.USAGE
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = exit_code.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at exit
        code = exit_code.OK
    sys.exit(code or 0)
