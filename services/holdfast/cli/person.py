"""The options by which one says who one is, where servers take the caller's word for it."""

from typing import Any

import click


def as_person(wrapped: Any) -> Any:
    """Give a command `--as`, `--group` and `--role`, as `user`, `groups` and `roles`."""
    for option in (
        click.option("--role", "roles", multiple=True, help="A role one has; may be given often."),
        click.option("--group", "groups", multiple=True, help="A group one is in; may be given often."),
        click.option(
            "--as", "user", envvar="HOLDFAST_USER", default="", help="Who one is (or HOLDFAST_USER)."
        ),
    ):
        wrapped = option(wrapped)
    return wrapped
