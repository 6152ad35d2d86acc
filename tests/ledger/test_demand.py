"""The demand for runners is what they would be given, whatever else waits."""

from holdfast.kit.db import Database
from holdfast.ledger import tenant
from holdfast.ledger.demand import Backlog, Question, backlogs
from holdfast.ledger.domain.batch import light_intent
from holdfast.ledger.domain.tenant import intent_caps
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


async def test_what_the_cap_of_an_intent_holds_back_is_no_demand(db: Database) -> None:
    await tenant.change(db, "acme", {"intent_caps": intent_caps({"count": 3})}, make=True)
    await admitted(
        db, *(invocation(intent=i, priority=2) for i in ("count", "talk", LIGHT) for _ in range(4))
    )
    both = Question(("count", "talk"))
    assert (await demand(db)).waiting == 3, "of the intent and its light items together"
    assert (await demand(db, Question(("count",), 2))).waiting == 3
    assert (await demand(db, both)).waiting == 3 + 4
    runner = await opened(db, LIGHTLY[:1])
    assert len(await runner.take(2)) == 2
    assert (await demand(db)).waiting == 1
    assert (await demand(db, Question(("count",), 2))).waiting == 1
    await admitted(db, *(invocation(tenant="other") for _ in range(5)))
    assert (await demand(db)).waiting == 1 + 5


async def test_a_tenants_room_is_counted_once_over_all_its_pools(db: Database) -> None:
    await tenant.change(db, "acme", {"max_in_flight": 3}, make=True)
    await admitted(db, *(invocation(intent=intent) for intent in ("count", "talk") for _ in range(5)))
    assert (await demand(db, Question(("count", "talk")))).waiting == 3
