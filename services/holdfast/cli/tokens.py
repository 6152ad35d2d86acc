"""`holdfast tokens`: the tokens by which programs call, each shown once."""

from pathlib import Path
from typing import Any, Final

import click

from holdfast.cli import exit_code
from holdfast.cli.database import unreachable
from holdfast.cli.given import Seconds
from holdfast.cli.output import Form, fields, json_line, note, plain, table
from holdfast.cli.target import Target, speaks
from holdfast.client import Token
from holdfast.ledger.access_token import Wanted

EVERY: Final = "*"
_ROLES: Final = "read, invoke, approve, operate, admin, runner, scaler, or a name that approvals know"


@click.group()
def command() -> None:
    """Make, list and revoke the tokens by which programs call.

    A token is of one tenant, or of the platform (--for '*'), which may act for all. The first one is made
    with --database-url, by whoever owns the database.
    """


@command.command()
@click.argument("name")
@click.option("--role", "roles", multiple=True, required=True, help=f"May be given often: {_ROLES}.")
@click.option("--group", "groups", multiple=True, help="A group it has; may be given often.")
@click.option("--user", default="", help="The user it acts as; by default its name.")
@click.option("--for", "owner", default="", metavar="TENANT", help="Whose it is; '*' is the platform.")
@click.option("--ttl", type=Seconds(), help="After how long it ends, as 30d; without, it does not.")
@click.option("--out", metavar="FILE", help="Write the secret there, for you alone; do not show it.")
@click.option(
    "--database-url", help="Make it in this ledger itself, as its owner; by default one of the platform."
)
@speaks
async def create(
    target: Target, name: str, owner: str, out: str | None, database_url: str | None, **wanted: Any
) -> int:
    """Make a token called NAME, and show its secret, which is shown this once."""
    if database_url is not None:
        asked = Wanted(owner or EVERY, name, wanted["user"] or name, *(wanted[each] for each in _WANTED))
        return await _create_in(database_url, asked, target.form, out)
    async with target.client() as client:
        made = await client.access.create_token(name, tenant=owner, **wanted)
    _tell(target.form, made.token, made.secret, out)
    return exit_code.OK


@command.command("list")
@click.option("--for", "owner", default="", metavar="TENANT", help="Whose; '*' is the platform.")
@click.option("--all", "everything", is_flag=True, help="Those that were revoked, too.")
@speaks
async def list_tokens(target: Target, owner: str, *, everything: bool) -> None:
    """List tokens without their secrets."""
    rows = []
    async with target.client() as client:
        async for token in client.access.tokens(owner):
            if token.revoke_time is not None and not everything:
                continue
            if target.form == "json":
                json_line(token)
            rows.append(
                (
                    token.token_id,
                    token.name,
                    token.user,
                    ", ".join(token.roles),
                    token.create_time,
                    token.expire_time,
                    token.revoke_time,
                )
            )
    if target.form == "table":
        columns = ["TOKEN", "NAME", "USER", "ROLES", "MADE", "ENDS", "REVOKED"]
        table(columns, rows, empty="No tokens.")


@command.command()
@click.argument("token_id", metavar="TOKEN")
@click.option("--for", "owner", default="", metavar="TENANT", help="Whose it is; '*' is the platform.")
@speaks
async def revoke(target: Target, token_id: str, owner: str) -> None:
    """End a token; servers that have just seen it may take it for a few seconds more."""
    async with target.client() as client:
        token = await client.access.revoke_token(token_id, tenant=owner)
    if target.form == "json":
        json_line(token)
    else:
        note(f"{token.name} is revoked.")


_WANTED: Final = ("groups", "roles", "ttl")
_REST: Final = (
    "tenant", "name", "user", "groups", "roles", "create_time", "create_user", "expire_time", "revoke_time",
)  # fmt: skip


async def _create_in(database_url: str, asked: Wanted, form: Form, out: str | None) -> int:
    from holdfast.ledger.bootstrap import make_token

    try:
        view, secret = await make_token(database_url, asked)
    except Exception as error:
        sentence = unreachable(error)
        if sentence is None:
            raise
        note(f"Error: {sentence}")
        return exit_code.UNWELL
    _tell(form, Token(str(view.token_id), *(getattr(view, field) for field in _REST)), secret, out)
    return exit_code.OK


def _tell(form: Form, token: Token, secret: str, out: str | None) -> None:
    if out is not None:
        path = Path(out)
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(secret + "\n", encoding="ascii")
    if form == "json":
        json_line({**plain(token), **({} if out else {"secret": secret})})
        return
    fields(
        [
            ("token", token.token_id),
            ("tenant", token.tenant),
            ("user", token.user),
            ("groups", ", ".join(token.groups)),
            ("roles", ", ".join(token.roles)),
            ("ends", token.expire_time),
            ("secret", f"in {out}" if out else secret),
        ]
    )
    if out is None:
        note("The secret is not shown again.")
