"""`holdfast dev`: the whole suite on this machine, until Ctrl-C."""

import json
from pathlib import Path
from typing import Any

import click

from holdfast.cli import exit_code
from holdfast.cli.output import fields, note
from holdfast.cli.target import finish


@click.command()
@click.option("--agents", multiple=True, metavar="MODULE:APP", help="Whose agents to run; repeatable.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=7401, show_default=True, help="The Invoker's; 0 for any."
)
@click.option("--database-url", help="A PostgreSQL of yours instead of the embedded one.")
@click.option(
    "--data-directory", type=click.Path(path_type=Path), help="Where the embedded one keeps its data."
)
@click.option("--ephemeral", is_flag=True, help="Keep no data.")
@click.option("--runners", type=click.IntRange(1, 64), default=1, show_default=True, help="How many runners.")
@click.option("--no-reload", is_flag=True, help="Leave the runners as they are when code changes.")
@click.option("--json", "as_json", is_flag=True, help="Say where everything is as one line of JSON.")
def command(
    *,
    agents: tuple[str, ...],
    no_reload: bool,
    as_json: bool,
    **wished: Any,
) -> None:
    """Run everything on this machine: PostgreSQL, all services, your agents; Ctrl-C takes it down."""
    from holdfast.dev import SuiteError
    from holdfast.dev.foreground import Wishes, run_foreground

    if wished["database_url"] and (wished["ephemeral"] or wished["data_directory"]):
        raise click.UsageError("--database-url names a database that keeps its own data.")
    if wished["ephemeral"] and wished["data_directory"]:
        raise click.UsageError("--ephemeral keeps no data, so there is no --data-directory.")

    async def work() -> int:
        try:
            await run_foreground(
                Wishes(agents=agents, reload=not no_reload, **wished), _json if as_json else _words
            )
        except SuiteError as error:
            note(f"Error: {error}")
            return exit_code.UNWELL
        return exit_code.OK

    finish(work())


def _json(where: dict[str, Any]) -> None:
    click.echo(json.dumps(where))


def _words(where: dict[str, Any]) -> None:
    click.echo(click.style("Holdfast is up.", bold=True))
    fields([(name, value) for name, value in where.items() if name not in {"pids", "grpc", "metrics"}])
    click.echo(
        f"invoker     {where['grpc']}\n\nTry, in another terminal:  holdfast invoke INTENT -d '{{}}' --watch"
    )
