"""`holdfast approvals`: what waits for people, their decisions, and whether the record of them holds."""

import hashlib
from collections.abc import Sequence
from typing import Any

import click

from holdfast.cli import exit_code
from holdfast.cli.given import json_value
from holdfast.cli.output import fields, json_line, note, plain, table
from holdfast.cli.person import as_person
from holdfast.cli.target import Target, speaks
from holdfast.client import Approval, ApprovalStatus, AuditEntry, Client, Person

_STATUSES = [status.name for status in ApprovalStatus if status]


@click.group()
def command() -> None:
    """List what waits for people, and decide it."""


@command.command("list")
@click.option("--status", "statuses", type=click.Choice(_STATUSES, case_sensitive=False), multiple=True)
@click.option("--run", "run_id", default="", help="Of this run.")
@click.option("--intent", default="", help="Of runs for this intent.")
@click.option("--mine", is_flag=True, help="Only what one may decide now (needs --as).")
@as_person
@speaks
async def list_approvals(
    target: Target,
    statuses: tuple[str, ...],
    run_id: str,
    intent: str,
    mine: bool,  # noqa: FBT001 - click passes it by name
    **who: Any,
) -> None:
    """List approvals, the most urgent first; without --status those that wait."""
    wanted = [ApprovalStatus[status] for status in statuses] or [ApprovalStatus.PENDING]
    shown: list[Approval] = []
    async with target.client() as client:
        async for each in client.approvals(Person(**who)).list(
            statuses=wanted, run_id=run_id, intent=intent, mine=mine
        ):
            if target.form == "json":
                json_line(each)
            shown.append(each)
    if target.form == "table":
        columns = ["APPROVAL", "INTENT", "TITLE", "STATUS", "NEEDS", "UNTIL", "RUN"]
        rows = [
            (a.approval_id, a.intent, a.title, a.status, "; ".join(a.required), a.deadline_time, a.run_id)
            for a in shown
        ]
        table(columns, rows, empty="No approvals.")


@command.command()
@click.argument("approval_id")
@speaks
async def get(target: Target, approval_id: str) -> None:
    """Read an approval with its payload and votes."""
    async with target.client() as client:
        _show(target, await client.approvals().get(approval_id))


@command.command()
@click.argument("approval_id")
@click.option("--reason", default="", help="Why, for the record.")
@click.option("--edited", help="Another payload than asked for, JSON or @file.")
@click.option("--revision", type=click.IntRange(0), default=0, help="The payload's revision one has seen.")
@as_person
@speaks
async def approve(
    target: Target, approval_id: str, reason: str, edited: str | None, revision: int, **who: Any
) -> None:
    """Approve."""
    wanted = None if edited is None else json_value(edited)
    async with target.client() as client:
        approvals = client.approvals(Person(**who))
        _show(target, await approvals.approve(approval_id, reason, edited=wanted, revision=revision))


@command.command()
@click.argument("approval_id")
@click.option("--reason", default="", help="Why, for the record.")
@as_person
@speaks
async def deny(target: Target, approval_id: str, reason: str, **who: Any) -> None:
    """Deny: one who is listed denies for all."""
    async with target.client() as client:
        _show(target, await client.approvals(Person(**who)).deny(approval_id, reason))


@command.command()
@click.option("--run", "run_id", default="", help="Of this run.")
@click.option("--intent", default="", help="Of runs for this intent.")
@click.option("--mine", is_flag=True, help="Only what one may decide (needs --as).")
@click.option("--cursor", default="", help="Go on after this one, as -o json tells it.")
@as_person
@speaks
async def watch(
    target: Target,
    run_id: str,
    intent: str,
    mine: bool,  # noqa: FBT001 - click passes it by name
    cursor: str,
    **who: Any,
) -> None:
    """Follow approvals: what waits first, then each change, until Ctrl-C."""
    async with (
        target.client() as client,
        client.approvals(Person(**who)).watch(
            run_id=run_id, intent=intent, mine=mine, cursor=cursor
        ) as inbox,
    ):
        async for each in inbox:
            if target.form == "json":
                json_line({"cursor": inbox.cursor, **plain(each)})
            else:
                click.echo(f"{each.approval_id}  {each.status.name:<9}  {each.title}  ({_who(each)})")


@command.command()
@speaks
async def verify(target: Target) -> int:
    """Recompute the tenant's audit log; the exit code is 1 if a link is missing or was changed."""
    async with target.client() as client:
        entries = await _log(client)
        if first_break(entries) is not None:
            # It may have grown while it was read, page by page: what was there before is read whole now.
            known = entries[-1].sequence
            entries = [entry for entry in await _log(client) if entry.sequence <= known]
    broken = first_break(entries)
    if broken is not None:
        near = next((entry for entry in entries if entry.sequence >= broken), None)
        note(f"Error: the audit log breaks at entry {broken}{near and f', of approval {near.approval_id}'}.")
        return exit_code.UNWELL
    head = entries[-1].hash if entries else bytes(32)
    if target.form == "json":
        json_line({"entries": len(entries), "head": head.hex()})
    else:
        click.echo(f"{len(entries)} entries hold; the last one's hash is {head.hex()}.")
    return exit_code.OK


async def _log(client: Client) -> list[AuditEntry]:
    entries = [entry async for each in client.approvals().list(audit=True) for entry in each.audit]
    return sorted(entries, key=lambda entry: entry.sequence)


def first_break(entries: Sequence[AuditEntry]) -> int | None:
    """Return the place of the first entry that is missing or does not follow from the one before it."""
    previous = bytes(32)
    for number, entry in enumerate(entries, 1):
        linked = entry.sequence == number and entry.previous_hash == previous
        if not linked or hashlib.sha256(previous + entry.content).digest() != entry.hash:
            return number
        previous = entry.hash
    return None


def _who(approval: Approval) -> str:
    if approval.status is ApprovalStatus.PENDING:
        return f"needs {'; '.join(approval.required)}"
    return f"by {', '.join(approval.by)}" if approval.by else approval.reason


def _show(target: Target, approval: Approval) -> None:
    if target.form == "json":
        json_line(approval)
        return
    fields(
        [
            ("approval", approval.approval_id),
            ("title", approval.title),
            ("status", approval.status),
            ("run", approval.run_id),
            ("step", approval.step),
            ("asked by", approval.requester),
            ("needs", "; ".join(approval.required)),
            ("votes", "; ".join(approval.votes)),
            ("decided by", ", ".join(approval.by)),
            ("reason", approval.reason),
            ("until", approval.deadline_time),
            ("revision", approval.payload_revision),
            ("payload", approval.payload),
        ]
    )
