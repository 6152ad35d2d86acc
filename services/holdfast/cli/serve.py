"""`holdfast serve`: become one service; everything else is its environment's to say."""

import os
import sys

import click

SERVICES = ("invoker", "checkpoint", "runner", "approval", "dispatcher", "console", "edge")


@click.command()
@click.argument("service", type=click.Choice(SERVICES))
@click.option("--print-config", is_flag=True, help="Print the settings and start nothing.")
def command(*, service: str, print_config: bool) -> None:
    """Run one SERVICE in this process; HOLDFAST_* variables are its settings."""
    arguments = [sys.executable, "-m", f"holdfast.{service}", *(["--print-config"] if print_config else [])]
    sys.stdout.flush()
    os.execv(sys.executable, arguments)  # noqa: S606 - signals reach the service, with nothing in between
