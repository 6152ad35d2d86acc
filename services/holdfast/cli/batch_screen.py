"""How far a batch is: a live bar on a terminal, a line for each change elsewhere."""

import sys
from types import TracebackType
from typing import Any, Self

import click

from holdfast.cli.output import Form, json_line, plain
from holdfast.client import Batch, BatchProgress


class BatchScreen:
    """Shows progress for the block; one JSON object a message if `form` is json."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._form == "table" and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[more]}"))
            self._task = self._bar.add_task("", more="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, batch: Batch, progress: BatchProgress) -> None:
        """Show one message."""
        if self._form == "json":
            json_line({"batch": plain(batch), "progress": plain_progress(progress)})
        elif self._bar is not None:
            self._bar.update(
                self._task,
                description=batch.status.name,
                total=progress.total,
                completed=progress.done(batch.status),
                more=more(progress),
            )
        else:
            done = progress.done(batch.status)
            line = f"{batch.status.name}  {done:,}/{progress.total:,}  {more(progress)}"
            click.echo(line.rstrip())
            sys.stdout.flush()


def more(progress: BatchProgress) -> str:
    """Return counts, rate, what was spent and the end to expect as one line."""
    counts = ", ".join(f"{count:,} {status.name.lower()}" for status, count in progress.counts.items())
    parts = [counts, f"{progress.items_per_second:.1f}/s"]
    if progress.usage.tokens:
        parts.append(f"{progress.usage.tokens:,} tokens, {progress.tokens_per_second:,.0f}/s")
    if progress.cost_micros:
        parts.append(f"cost {progress.cost_micros / 1e6:,.2f}")
    if progress.eta_earliest is not None and progress.eta_latest is not None:
        ends = (f"{moment.astimezone():%H:%M:%S}" for moment in (progress.eta_earliest, progress.eta_latest))
        parts.append(f"ends {' to '.join(ends)}")
    return "; ".join(parts)


def plain_progress(progress: BatchProgress) -> dict[str, Any]:
    """Return progress as JSON, statuses by name."""
    counts = {status.name: count for status, count in progress.counts.items()}
    return {**plain(progress), "counts": counts, "ended": progress.ended}
