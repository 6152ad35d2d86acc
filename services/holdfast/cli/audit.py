"""`holdfast audit`: what was done by people and programs."""

import click

from holdfast.cli.output import json_line, table
from holdfast.cli.target import Target, speaks


@click.group()
def command() -> None:
    """Show what was done by whom: decisions, cancels, retries, administration."""


@command.command("list")
@click.option("--for", "owner", default="", metavar="TENANT", help="Whose; by default one's own tenant.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most this many.")
@speaks
async def list_records(target: Target, owner: str, limit: int) -> None:
    """List the audit, newest first.

    A call has a record from before it acted, whose outcome is empty, and one of how it ended.
    """
    rows = []
    async with target.client() as client:
        async for record in client.access.audit(owner, page_size=min(limit, 200)):
            if target.form == "json":
                json_line(record)
            subject = " ".join(f"{name}={value}" for name, value in record.subject.items())
            rows.append((record.time, record.user, record.action, record.outcome, subject))
            if len(rows) == limit:
                break
    if target.form == "table":
        table(["TIME", "USER", "ACTION", "OUTCOME", "SUBJECT"], rows, empty="Nothing was done.")
