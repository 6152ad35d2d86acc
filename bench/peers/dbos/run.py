"""DBOS answers the benchmark's questions: two workers on PostgreSQL, runs queued or started directly.

Whatever favours DBOS is done: synchronous steps (a quarter faster here than its async ones), no ping before
each use of a connection, a queue polled every 10 ms instead of every second, all runs enqueued at once from
several threads, and their end seen by one counting query instead of one polling wait per run.
"""
# mypy: disable-error-code="import-not-found"
# DBOS is at hand only in the peer's own environment.

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
from dbos import DBOSClient

from bench.measure import WARM_UP_RUNS, Meter
from bench.protocol import Question, answer, decline, read_question

WORKERS = 2
QUEUE = "bench"
ENQUEUERS = 8
WARM_UP = 100
EVENTS = 4_000
FINISHED = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'"


class Worker:
    """A worker process that is ready, and takes orders."""

    def __init__(self, number: int, database_url: str, concurrency: int) -> None:
        command = [sys.executable, "-m", "bench.peers.dbos.worker"]
        command += [database_url, f"worker-{number}", QUEUE, str(concurrency)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        self.result()

    def order(self, workload: str, runs: int, concurrency: int) -> None:
        """Have runs started in the worker; `result` waits for them."""
        assert self._process.stdin
        print(
            json.dumps({"workload": workload, "runs": runs, "concurrency": concurrency}),
            file=self._process.stdin,
            flush=True,
        )

    def result(self) -> Any:
        """Wait for the next line the worker prints."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a DBOS worker ended before its work was done")
        return json.loads(line)

    def close(self) -> None:
        """End the process: nothing it holds is of worth any more."""
        self._process.kill()
        self._process.wait()


@contextmanager
def workers(database_url: str, concurrency: int) -> Iterator[list[Worker]]:
    """Start the workers one after another (the first one migrates), and end them."""
    started: list[Worker] = []
    try:
        for number in range(WORKERS):
            worker = Worker(number, database_url, max(1, concurrency // WORKERS))
            started.append(worker)
        yield started
    finally:
        for worker in started:
            worker.close()


def run_directly(staff: list[Worker], workload: str, runs: int, concurrency: int) -> None:
    """Have each worker start its share of the runs itself."""
    for worker in staff:
        worker.order(workload, runs // len(staff), max(1, concurrency // len(staff)))
    for worker in staff:
        worker.result()


def run_queued(client: Any, database: Any, workload: str, runs: int) -> None:
    """Enqueue all runs, each durably before the next of its thread, and wait until all have ended."""
    before = database.execute(FINISHED).fetchone()[0]
    options = {"workflow_name": workload, "queue_name": QUEUE}
    with ThreadPoolExecutor(ENQUEUERS) as threads:
        list(threads.map(lambda number: client.enqueue(options, number), range(runs)))
    while database.execute(FINISHED).fetchone()[0] - before < runs:
        time.sleep(0.02)


def throughput(question: Question, database_url: str) -> None:
    """Answer how many runs a second, and at what CPU time."""
    with psycopg.connect(database_url, autocommit=True) as database:
        postmaster = int(database.execute("SELECT pg_read_file('postmaster.pid')").fetchone()[0].split()[0])
        with workers(database_url, question.concurrency) as staff:
            client = DBOSClient(system_database_url=database_url, system_database_pool_size=ENQUEUERS)
            processes = {f"worker-{number}": worker.pid for number, worker in enumerate(staff)}
            meter = Meter({"postgres": postmaster, **processes})
            for runs in (WARM_UP_RUNS, question.runs):
                meter.start()
                if question.variant == "direct":
                    run_directly(staff, question.workload, runs, question.concurrency)
                else:
                    run_queued(client, database, question.workload, runs)
            answer(**meter.read(question.runs))
            client.destroy()


def events(question: Question, database_url: str) -> None:
    """Answer how many events a second were taken in, and how many a second came to their end."""
    if question.variant != "queue":
        decline("Events go through the queue: what a worker starts itself is no event.")
    with (
        psycopg.connect(database_url, autocommit=True) as database,
        workers(database_url, question.concurrency),
        ThreadPoolExecutor(ENQUEUERS) as threads,
    ):
        client = DBOSClient(system_database_url=database_url, system_database_pool_size=ENQUEUERS)
        run_queued(client, database, "w2", WARM_UP)
        options = {"workflow_name": "w2", "queue_name": QUEUE}
        began = time.perf_counter()
        list(threads.map(lambda number: client.enqueue(options, number), range(EVENTS)))
        taken_in = time.perf_counter() - began
        while database.execute(FINISHED).fetchone()[0] < WARM_UP + EVENTS:
            time.sleep(0.1)
        ended = time.perf_counter() - began
        client.destroy()
    answer(events_per_s=round(EVENTS / taken_in, 1), ended_per_s=round(EVENTS / ended, 1))


def latency(question: Question, database_url: str) -> None:
    """Answer how long single runs take, one after another."""
    with workers(database_url, WORKERS) as staff:
        if question.variant == "direct":
            staff[0].order(question.workload, WARM_UP + question.runs, 1)
            answer(latencies_ms=staff[0].result()[WARM_UP:])
            return
        client = DBOSClient(system_database_url=database_url)
        options = {"workflow_name": question.workload, "queue_name": QUEUE}
        latencies = []
        for number in range(WARM_UP // 10 + question.runs):
            began = time.perf_counter()
            client.enqueue(options, number).get_result(polling_interval_sec=0.002)
            latencies.append(1000 * (time.perf_counter() - began))
        answer(latencies_ms=latencies[WARM_UP // 10 :])
        client.destroy()


def main() -> None:
    """Answer the question on the command line."""
    question = read_question()
    if question.repeatable:
        decline("DBOS has no pipelined commits: its ordinary latency is the one to compare with.")
    if question.measure == "recovery":
        decline(
            "DBOS resumes a dead process's runs only through its Conductor, or when that process restarts."
        )
    if question.measure == "claim-depth":
        decline("This case measures our ledger alone.")
    measures = {"throughput": throughput, "latency": latency, "events": events}
    measures[question.measure](question, os.environ["BENCH_DATABASE_URL"])


if __name__ == "__main__":
    main()
