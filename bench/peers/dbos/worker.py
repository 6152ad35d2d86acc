"""One DBOS process: takes runs from the queue, or starts them itself when told to on its standard input."""
# mypy: disable-error-code="import-not-found,untyped-decorator"
# DBOS is at hand only in the peer's own environment.

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from dbos import DBOS


@DBOS.step()
def tiny(number: int) -> int:
    """Do a step's least work."""
    return number + 1


@DBOS.workflow()
def w1(number: int) -> int:
    """Run three steps."""
    first: int = tiny(number)
    second: int = tiny(first)
    third: int = tiny(second)
    return third


@DBOS.workflow()
def w2(number: int) -> int:
    """Run one step."""
    only: int = tiny(number)
    return only


def start_runs(workload: str, runs: int, concurrency: int) -> list[float]:
    """Start runs in this process, which spares DBOS the dispatch; return the milliseconds of each."""
    workflow = {"w1": w1, "w2": w2}[workload]

    def one(number: int) -> float:
        began = time.perf_counter()
        workflow(number)
        return 1000 * (time.perf_counter() - began)

    with ThreadPoolExecutor(concurrency) as lanes:
        return list(lanes.map(one, range(runs)))


def main() -> None:
    """Serve orders, one JSON line each, until standard input ends."""
    database_url, name, queue, concurrency = sys.argv[1:]
    DBOS(
        config={
            "name": "bench",
            "system_database_url": database_url,
            "executor_id": name,
            "application_version": "1",
            "log_level": "ERROR",
            "db_engine_kwargs": {"pool_pre_ping": False},
            "run_migrations": name == "worker-0",
        }
    )
    DBOS.launch()
    DBOS.register_queue(
        queue, worker_concurrency=int(concurrency), polling_interval_sec=0.01, on_conflict="always_update"
    )
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(start_runs(**json.loads(line))), flush=True)
    DBOS.destroy()


if __name__ == "__main__":
    main()
