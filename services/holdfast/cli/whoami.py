"""`holdfast whoami`: who the server takes one for."""

import click

from holdfast.cli.output import fields, json_line
from holdfast.cli.target import Target, speaks


@click.command()
@speaks
async def command(target: Target) -> None:
    """Say who the server takes you for.

    Without identity that is whom you say you are, with every role.
    """
    async with target.client() as client:
        me = await client.access.me()
    if target.form == "json":
        json_line(me)
        return
    fields(
        [
            ("tenant", me.tenant),
            ("user", me.user),
            ("groups", ", ".join(me.groups)),
            ("roles", ", ".join(me.roles)),
            ("platform", "yes" if me.platform else ""),
            ("credential", me.credential),
        ]
    )
