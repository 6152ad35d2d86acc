"""Runs the Invoker: `python -m holdfast.invoker`."""

import asyncio
import os
import sys

from holdfast.invoker.board import Board
from holdfast.invoker.caretaker import Caretaker
from holdfast.invoker.claimer import Claimer
from holdfast.invoker.door import Door
from holdfast.invoker.follow import Followers
from holdfast.invoker.hints import Hints
from holdfast.invoker.intents import Intents
from holdfast.invoker.live import Live
from holdfast.invoker.registrations import HOT, registrations
from holdfast.invoker.settings import InvokerSettings
from holdfast.invoker.stopping import Stopping
from holdfast.invoker.waiters import Waiters
from holdfast.kit.db import Database, as_fault
from holdfast.kit.process import Stop, run_service
from holdfast.kit.rpc.server import serve
from holdfast.kit.settings import load
from holdfast.kit.telemetry.logs import configure
from holdfast.ledger.notice import Notices
from holdfast.ledger.session_settings import SESSION_SETTINGS


async def main(stop: Stop) -> None:
    """Put the parts together and serve until told to stop."""
    settings = load(InvokerSettings, os.environ)
    configure("invoker")
    async with await Database.connect(
        settings.database_url,
        application_name="holdfast-invoker",
        server_settings=SESSION_SETTINGS,
        pool_size=settings.database_pool,
    ) as db:
        notices = Notices(db)
        board, live = Board(), Live()
        claimer = Claimer(db, board)
        intents = Intents(db, queue_unknown=settings.queue_unknown_intents)
        door = Door(db, board, claimer, notices, intents)
        waiters, followers = Waiters(db), Followers(db, live)
        caretaker = Caretaker(
            db=db,
            board=board,
            claimer=claimer,
            waiters=waiters,
            followers=followers,
            notices=notices,
            settings=settings,
        )
        stopping = Stopping(db, board, live, caretaker)
        hints = Hints(board, claimer, waiters, followers)
        loops = [door.run(stop), *(loop.run(stop) for loop in (claimer.loop, waiters.loop, followers.loop))]
        running = [
            asyncio.create_task(each) for each in (*loops, *(loop.run(stop) for loop in caretaker.loops))
        ]
        listeners = hints.listen(db)

        async def drain() -> None:
            """Tell the runners to go elsewhere, and let what was admitted be answered."""
            board.drain(settings.drain_grace)
            await asyncio.gather(*running)

        try:
            await serve(
                registrations(
                    db=db,
                    board=board,
                    door=door,
                    waiters=waiters,
                    followers=followers,
                    stopping=stopping,
                    claimer=claimer,
                    caretaker=caretaker,
                    intents=intents,
                    settings=settings,
                ),
                settings.listen,
                stop,
                service="invoker",
                grace=settings.drain_grace,
                drain=drain,
                translate=as_fault,
                hot=HOT,
            )
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for listener in listeners:
                await listener.close()
            await live.close()
            await notices.close()


if __name__ == "__main__":
    sys.exit(run_service(main, settings=lambda: load(InvokerSettings, os.environ)))
