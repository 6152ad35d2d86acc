"""Which suite a command speaks to: as told, as the environment says, or the one running in this folder."""

import asyncio
import functools
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from holdfast.cli import exit_code
from holdfast.cli.output import Form, note, refusal
from holdfast.client import Client, HoldfastError, Retries, Tls
from holdfast.dev.record import find_record
from holdfast.payload import PayloadCodec, configured_codec

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
    tenant: str | None
    form: Form
    token: str = field(default="", repr=False)
    tls: Tls | None = None
    codec: PayloadCodec | None = None

    def client(self) -> Client:
        """Return a client of these services."""
        return Client(
            self.invoker,
            tenant=self.tenant,
            token=self.token,
            tls=self.tls,
            dispatcher=self.dispatcher,
            checkpoint=self.checkpoint,
            approval=self.approval,
            codec=self.codec,
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


def choose_token(file: str | None) -> str:
    """Return the token: in the file, from HOLDFAST_TOKEN, or none. Raises `click.UsageError`."""
    if file is None:
        return os.environ.get("HOLDFAST_TOKEN", "").strip()
    try:
        return Path(file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"The token cannot be read in {file}.") from error


def choose_codec(keys_file: str | None) -> PayloadCodec | None:
    """Return what seals payloads: with the keys in the file, as the environment says, or nothing."""
    try:
        return configured_codec(
            os.environ.get("HOLDFAST_PAYLOAD_CODEC", ""), Path(keys_file) if keys_file else None
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def speaks(command: Callable[..., Coroutine[Any, Any, int | None]]) -> Callable[..., None]:
    """Make an async command of `command(target, …)`: adds where to speak to, and ends with its exit code."""

    @click.option("--address", metavar="HOST:PORT", help="The Invoker (or HOLDFAST_ADDRESS).")
    @click.option("--dispatcher-address", metavar="HOST:PORT", help="The Dispatcher, for the outbox.")
    @click.option("--checkpoint-address", metavar="HOST:PORT", help="The Checkpoint service.")
    @click.option("--approval-address", metavar="HOST:PORT", help="The Approval service.")
    @click.option(
        "--tenant",
        envvar="HOLDFAST_TENANT",
        help="On whose behalf (or HOLDFAST_TENANT): by default the token's tenant, or `default`.",
    )
    @click.option(
        "--token-file",
        metavar="FILE",
        envvar="HOLDFAST_TOKEN_FILE",
        help="Holds the token that says who you are (or HOLDFAST_TOKEN, the token itself).",
    )
    @click.option(
        "--tls-ca", metavar="FILE", envvar="HOLDFAST_TLS_CA_FILE", help="Whom to trust; has TLS used."
    )
    @click.option("--tls-cert", metavar="FILE", envvar="HOLDFAST_TLS_CERT_FILE", help="Our certificate.")
    @click.option("--tls-key", metavar="FILE", envvar="HOLDFAST_TLS_KEY_FILE", help="Its key.")
    @click.option(
        "--payload-keys",
        metavar="FILE",
        envvar="HOLDFAST_PAYLOAD_KEYS_FILE",
        help="Keys that seal and open payloads (or HOLDFAST_PAYLOAD_CODEC, a codec as module:name).",
    )
    @click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
    @functools.wraps(command)
    def run(
        *,
        address: str | None,
        dispatcher_address: str | None,
        checkpoint_address: str | None,
        approval_address: str | None,
        tenant: str | None,
        token_file: str | None,
        tls_ca: str | None,
        tls_cert: str | None,
        tls_key: str | None,
        payload_keys: str | None,
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
            token=choose_token(token_file),
            tls=Tls(tls_ca, tls_cert, tls_key) if tls_ca or tls_cert or tls_key else None,
            codec=choose_codec(payload_keys),
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
