"""The demand for runners is what they would be given, whatever else waits."""

from holdfast.kit.db import Database
from holdfast.ledger.demand import Backlog, Question, backlogs
from holdfast.ledger.domain.batch import light_intent
from holdfast.ledger.values import ServedIntent
from tests.support.ledger import admitted, invocation, opened

COUNT = Question(("count",))
LIGHT = light_intent("count")
LIGHTLY = (ServedIntent("count", "1"), ServedIntent(LIGHT, "1"), ServedIntent("talk", "1"))


async def demand(db: Database, question: Question = COUNT) -> Backlog:
    async with db.connection() as connection:
        return (await backlogs(connection, [question]))[question]


async def test_chunks_of_light_items_are_work_of_their_intent(db: Database) -> None:
    await admitted(db, invocation(), invocation(intent=LIGHT), invocation(intent=LIGHT, priority=5))
    assert (await demand(db)).waiting == 3
    assert (await demand(db)).lag_s > 0
    assert (await demand(db, Question(("count",), 5))).waiting == 1
    assert (await demand(db, Question(("talk",)))).waiting == 0
    runner = await opened(db, LIGHTLY)
    await runner.take(2)
    backlog = await demand(db)
    assert (backlog.waiting, backlog.in_flight) == (1, 2)
    await admitted(db, invocation(intent=LIGHT, agent_version="1"))
    assert (await demand(db)).waiting == 2, "one waits for its version"
