"""The task of the benchmark, and a process that executes it until it is killed."""
# mypy: disable-error-code="import-not-found,untyped-decorator"
# Procrastinate is at hand only in the peer's own environment.

import asyncio
import sys

from procrastinate import App, PsycopgConnector


def made(database_url: str, connections: int) -> App:
    """Return the app with its one task, over a pool of so many connections."""
    app = App(connector=PsycopgConnector(conninfo=database_url, min_size=1, max_size=connections))

    @app.task(name="count")
    async def count(number: int) -> int:
        return number + 1

    return app


async def work(database_url: str, concurrency: int) -> None:
    """Execute tasks, so many at once; it is told of new ones, and ends what it has done in between."""
    app = made(database_url, 8)
    async with app.open_async():
        print("ready", flush=True)
        await app.run_worker_async(concurrency=concurrency, install_signal_handlers=False)


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], int(sys.argv[2])))
