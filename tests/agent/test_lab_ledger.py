"""The lab's ledger refuses what the real one does, whatever an engine asks of it."""

import pytest

from holdfast.agent import Limits, Permanent, Usage
from holdfast.agent.engine.journal import Committed, Refused
from holdfast.agent.testing.ledger import Ledger
from holdfast.agent.testing.scene import Scene
from holdfast.agent.wire.draft import Commit, Record

LIMITS = Limits(deadline=60, steps=2, tools=1, tokens=10, context=5)


def record(key: str, *, steps: int = 1, tools: int = 0, tokens: int = 0, context: int = 0) -> Record:
    made = Record(key=key)
    made.usage.steps, made.usage.tools = steps, tools
    made.usage.tokens, made.usage.context = tokens, context
    return made


def reason(ledger: Ledger, commit: Commit) -> str:
    answer = ledger.commit(commit)
    return answer.reason if isinstance(answer, Refused) else "COMMITTED"


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([record("a"), record("b")], "COMMITTED"),
        ([record("a"), record("b"), record("c")], "BUDGET_EXCEEDED"),
        ([record("a", tools=2)], "BUDGET_EXCEEDED"),
        ([record("a", tokens=30)], "COMMITTED"),  # one call may pass the limit of tokens
        ([record("a", tokens=10), record("b", tokens=1)], "BUDGET_EXCEEDED"),  # and no other after it
        ([record("a", context=6)], "BUDGET_EXCEEDED"),
    ],
)
async def test_nothing_lands_that_the_budget_does_not_bear(records: list[Record], expected: str) -> None:
    ledger = Ledger(Scene("desk", limits=LIMITS))
    ledger.lease()
    assert reason(ledger, Commit(epoch=1, number=1, steps=records)) == expected
    assert len(ledger.commits) == (expected == "COMMITTED")


async def test_what_is_lent_cannot_be_spent_until_it_comes_back() -> None:
    ledger = Ledger(Scene("desk", limits=Limits(deadline=60, steps=4, tools=2, tokens=10, context=5)))
    ledger.lease()
    given = ledger.account.lend(Limits(steps=2, tools=1, tokens=6))
    assert given == Limits(steps=2, tools=1, tokens=6, context=5)
    for beyond in (record("a", steps=3), record("a", tools=2)):
        assert reason(ledger, Commit(epoch=1, number=1, steps=[beyond])) == "BUDGET_EXCEEDED"
    calls = [record("a", tokens=4), record("b", tokens=1)]
    assert reason(ledger, Commit(epoch=1, number=1, steps=calls)) == "BUDGET_EXCEEDED"
    assert reason(ledger, Commit(epoch=1, number=1, steps=[record("a", steps=2)])) == "COMMITTED"
    ledger.account.settle(Usage(2, 1, 6), Usage(1, 1, 2))
    assert (ledger.account.lent, ledger.spent) == (Usage(), Usage(3, 1, 2))
    assert reason(ledger, Commit(epoch=1, number=2, steps=[record("b", tools=1)])) == "COMMITTED"


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (Limits(), Limits(steps=20, tools=1, tokens=62, context=5)),  # a sixteenth of all but two steps
        (Limits(7, 320, 9, 1000, 3), Limits(7, 320, 9, 1000, 3)),
        (Limits(steps=321), "320 of its steps"),
        (Limits(tools=10), "9 of its tools"),
        (Limits(context=6), "5 of its context"),
    ],
)
async def test_a_run_lends_a_share_or_what_is_asked_but_not_more_than_is_left(
    asked: Limits, given: Limits | str
) -> None:
    ledger = Ledger(Scene("desk", limits=Limits(60, 322, 9, 1000, 5)))
    if isinstance(given, Limits):
        assert ledger.account.lend(asked) == given
        return
    with pytest.raises(Permanent, match=given) as refused:
        ledger.account.lend(asked)
    assert refused.value.reason == "BUDGET_EXCEEDED"
    assert ledger.account.lent == Usage()


async def test_only_the_next_commit_of_the_lease_lands() -> None:
    ledger = Ledger(Scene("desk"))
    assert reason(ledger, Commit(epoch=0, number=1)) == "FENCED"
    ledger.lease()
    assert reason(ledger, Commit(epoch=1, number=2)) == "COMMIT_OUT_OF_ORDER"
    assert isinstance(ledger.commit(Commit(epoch=1, number=1)), Committed)
    ledger.lost()
    assert reason(ledger, Commit(epoch=1, number=2)) == "FENCED"
    ledger.lease()
    assert reason(ledger, Commit(epoch=1, number=2)) == "FENCED"
    assert reason(ledger, Commit(epoch=2, number=2)) == "COMMITTED"
