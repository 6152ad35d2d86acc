"""`holdfast outbox install`: the outbox in a database of your own, for a service of yours."""

from collections.abc import Awaitable, Callable
from typing import Any

import click

from holdfast.cli import exit_code
from holdfast.cli.database import choose_database, unreachable
from holdfast.cli.output import json_line, note, table
from holdfast.cli.target import finish


@click.command()
@click.option("--database-url", help="Your service's database, as its owner (or HOLDFAST_DATABASE_URL).")
@click.option(
    "--service-role",
    "service_roles",
    multiple=True,
    help="A role that is to stage effects and nothing else; made if it is missing. Repeatable.",
)
@click.option(
    "--dispatcher-role",
    "dispatcher_roles",
    multiple=True,
    help="A role that is to deliver them and nothing else; made if it is missing. Repeatable.",
)
@click.option("--print-sql", is_flag=True, help="Print what makes these roles, for somebody else to run.")
@click.option("--uninstall", is_flag=True, help="Take it away; what would go with it is shown.")
@click.option("--yes", is_flag=True, help="With --uninstall: do so.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def command(
    *,
    database_url: str | None,
    print_sql: bool,
    output: str,
    service_roles: tuple[str, ...],
    dispatcher_roles: tuple[str, ...],
    **going: bool,
) -> None:
    """Put the outbox into a database of your own, or bring it up to date.

    Your service then calls holdfast_outbox.stage(…) in its own transactions, and `holdfast serve dispatcher
    --database-url …` delivers what was committed. Repeatable.
    """
    from holdfast.ledger import outbox_install

    members = [
        *((role, outbox_install.STAGES) for role in service_roles),
        *((role, outbox_install.DISPATCHES) for role in dispatcher_roles),
    ]
    if print_sql and not members:
        raise click.UsageError("For which roles? Say --service-role or --dispatcher-role.")
    if going["uninstall"] and members:
        raise click.UsageError("--uninstall takes no roles: those that there are stay.")

    async def work() -> None:
        if print_sql:
            for statement in outbox_install.role_statements(members):
                click.echo(f"{statement};")
        elif going["uninstall"]:
            await _uninstall(choose_database(database_url), output, yes=going["yes"])
        else:
            _installed(await outbox_install.install(choose_database(database_url), members=members), output)

    finish(_told(work))


async def _told(work: Callable[[], Awaitable[None]]) -> int:
    from holdfast.ledger.migrate import MigrationError

    try:
        await work()
    except MigrationError as error:
        note(f"Error: {error}")
        return exit_code.REFUSED
    except click.UsageError:
        raise
    except Exception as error:
        if (sentence := unreachable(error)) is None:
            raise
        note(f"Error: {sentence}")
        return exit_code.UNAVAILABLE
    return exit_code.OK


async def _uninstall(url: str, output: str, *, yes: bool) -> None:
    from holdfast.ledger import outbox_install

    left = await (outbox_install.uninstall(url) if yes else outbox_install.left(url))
    _gone(left, output, done=yes)


def _installed(applied: list[str], output: str) -> None:
    if output == "json":
        json_line({"applied": applied})
        return
    table(["APPLIED"], [(name,) for name in applied], empty="Nothing to apply.")


def _gone(left: Any, output: str, *, done: bool) -> None:
    counts = {
        "pending": left.pending,
        "dead_lettered": left.dead_lettered,
        "effects": left.effects,
        "destinations": left.destinations,
    }
    if output == "json":
        json_line({"uninstalled": done, **counts})
        return
    table([name.upper().replace("_", "-") for name in counts], [tuple(counts.values())], empty="")
    if not done:
        note("Nothing is taken away without --yes.")
