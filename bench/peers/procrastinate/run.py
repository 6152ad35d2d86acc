"""Procrastinate answers how many events it takes in: deferred in groups, executed by two workers meanwhile.

Whatever favours it is done: groups of 500 are inserted by one statement each, without locks or keys that make
one of duplicates, and workers are told of new tasks instead of polling for them.
"""
# mypy: disable-error-code="import-not-found"
# Procrastinate is at hand only in the peer's own environment.

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from bench.peers.procrastinate.tasks import made
from bench.protocol import Question, answer, decline, read_question

WORKERS = 2
PUBLISHERS = 4
GROUP = 500
EVENTS = 10_000
PATIENCE = 600.0
FINISHED = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"


@contextmanager
def workers(database_url: str, concurrency: int) -> Iterator[None]:
    """Start the workers, wait until they are ready, and end them."""
    command = [sys.executable, "-m", "bench.peers.procrastinate.tasks", database_url]
    command.append(str(max(1, concurrency // WORKERS)))
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(WORKERS)]
    try:
        for worker in started:
            assert worker.stdout
            if worker.stdout.readline().strip() != "ready":
                raise RuntimeError("a worker did not start")
        yield
    finally:
        for worker in started:
            worker.kill()
            worker.wait()


async def events(question: Question, database_url: str) -> None:
    """Answer how many events a second were taken in, and how many a second came to their end."""
    app = made(database_url, PUBLISHERS)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        with (
            workers(database_url, question.concurrency),
            psycopg.connect(database_url, autocommit=True) as look,
        ):
            task = app.tasks["count"]
            left = iter(range(0, EVENTS, GROUP))

            async def publish() -> None:
                for first in left:
                    await task.batch_defer_async(*({"number": first + n} for n in range(GROUP)))

            began = time.perf_counter()
            await asyncio.gather(*(publish() for _ in range(PUBLISHERS)))
            taken_in = time.perf_counter() - began
            async with asyncio.timeout(PATIENCE):
                while look.execute(FINISHED).fetchall()[0][0] < EVENTS:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            ended = time.perf_counter() - began
    answer(
        events_per_s=round(EVENTS / taken_in, 1),
        ended_per_s=round(EVENTS / ended, 1),
    )


def main() -> None:
    """Answer the question on the command line."""
    question = read_question()
    if question.measure != "events":
        decline("Procrastinate executes tasks, not runs of durable steps: only its queue is compared.")
    asyncio.run(events(question, os.environ["BENCH_DATABASE_URL"]))


if __name__ == "__main__":
    main()
