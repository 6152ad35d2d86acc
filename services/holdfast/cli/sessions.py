"""`holdfast sessions`: what the runs of a conversation hand on to each other."""

import json

import click

from holdfast.cli.output import fields, json_line
from holdfast.cli.runs import show_list
from holdfast.cli.target import Target, speaks


@click.group()
def command() -> None:
    """Show and forget what the runs of a conversation hand on."""


@command.command()
@click.argument("session_id")
@speaks
async def get(target: Target, session_id: str) -> None:
    """Read what a session holds."""
    async with target.client() as client:
        session = await client.sessions.get(session_id)
    if target.form == "json":
        json_line(session)
        return
    fields(
        [
            ("session", session.session_id),
            ("version", session.version),
            ("saved by", session.run_id),
            ("first saved", session.create_time),
            ("last saved", session.update_time),
        ]
    )
    click.echo(json.dumps(session.state, indent=2, ensure_ascii=False))


@command.command()
@click.argument("session_id")
@speaks
async def delete(target: Target, session_id: str) -> None:
    """Forget what a session holds; its next run begins anew, its runs stay on record."""
    async with target.client() as client:
        await client.sessions.delete(session_id)
    if target.form == "json":
        json_line({"session_id": session_id, "deleted": True})
    else:
        fields([("forgotten", session_id)])


@command.command()
@click.argument("session_id")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most this many.")
@speaks
async def runs(target: Target, session_id: str, limit: int) -> None:
    """List the runs of a session, newest first."""
    if not session_id:
        raise click.UsageError("A session has an id.")
    await show_list(target, limit, session_id=session_id)
