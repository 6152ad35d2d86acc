"""The `holdfast` command."""

import sys

import click

from holdfast.cli.lazy import LazyGroup

COMMANDS = {
    "dev": ("dev", "Run everything on this machine, until Ctrl-C."),
    "serve": ("serve", "Run one service in this process."),
    "invoke": ("invoke", "Start a run."),
    "converse": ("converse", "Start a run and speak with it."),
    "chat": ("chat", "Chat with an agent, a run for each line."),
    "runs": ("runs", "List, read, watch, cancel, retry and fork runs."),
    "replay": ("replay", "Hold recorded runs against the code that is here now."),
    "batch": ("batch", "Run many items over one intent, and follow them."),
    "sessions": ("sessions", "Show and forget what the runs of a conversation hand on."),
    "events": ("events", "Publish events that start runs."),
    "schedules": ("schedules", "Start runs at given times, each once."),
    "approvals": ("approvals", "List what waits for people, and decide it."),
    "outbox": ("outbox", "Look after effects and their destinations."),
    "tenants": ("tenants", "Show tenants with their queues, and set their limits."),
    "tokens": ("tokens", "Make, list and revoke the tokens by which programs call."),
    "whoami": ("whoami", "Say who the server takes you for."),
    "audit": ("audit", "Show what was done by whom."),
    "db": ("db", "Migrate the ledger's database."),
    "doctor": ("doctor", "Say what is wrong with this installation."),
}


# "\\b" keeps the lines as they are.
HELP = """Run agents whose runs are bounded, resumable, cancellable, and safe to repeat.

\b
Exit codes:
  0    all well
  1    the run ended FAILED, CANCELLED, DEAD_LETTERED, …, or something is not well here
  2    wrong usage
  3    refused by the server
  4    the server cannot be reached
  5    the run ended PARTIAL
  6    the run goes on: it did not end within the time given to wait
  130  interrupted
"""


@click.group(
    cls=LazyGroup,
    help=HELP,
    rooms=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="holdfast")
def holdfast() -> None:
    """Choose a command."""


def main() -> None:
    """Run the command line; the entry point of the installed `holdfast`."""
    holdfast(prog_name="holdfast")
    sys.exit(0)


if __name__ == "__main__":
    main()
