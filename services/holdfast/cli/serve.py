"""`holdfast serve`: become one service; everything else is its environment's to say."""

import os
import sys

import click

SERVICES = ("invoker", "checkpoint", "runner", "approval", "dispatcher", "console", "edge")


@click.command()
@click.argument("service", type=click.Choice(SERVICES))
@click.option("--print-config", is_flag=True, help="Print the settings and start nothing.")
@click.option("--database-url", help="The database to work on, instead of HOLDFAST_DATABASE_URL.")
def command(*, service: str, print_config: bool, database_url: str | None) -> None:
    """Run one SERVICE in this process; HOLDFAST_* variables are its settings.

    A dispatcher also works on a database of your own, beside your service: see `holdfast outbox install`.
    """
    if database_url is not None:
        if service in ("runner", "console"):
            raise click.UsageError(f"The {service} has no way to a database.")
        os.environ["HOLDFAST_DATABASE_URL"] = database_url  # and gone from the list of processes
    arguments = [sys.executable, "-m", f"holdfast.{service}", *(["--print-config"] if print_config else [])]
    sys.stdout.flush()
    os.execv(sys.executable, arguments)  # noqa: S606 - signals reach the service, with nothing in between
