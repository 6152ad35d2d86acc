"""Whatever runners send, only the holder's next commit lands, and only within the budget."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from holdfast.ledger.domain.budget import Limits, Usage
from holdfast.ledger.domain.commit import Attempted, Charge, Standing, Verdict, verdict
from holdfast.ledger.domain.status import RunStatus

small = st.integers(0, 4)
calls = st.lists(st.tuples(small, small, st.integers(0, 60), st.integers(0, 60)), max_size=3)
attempts = st.builds(
    lambda epoch, number, first, spent: (Attempted(epoch, number, first, Charge.of(spent)), spent),
    st.integers(1, 3),
    st.integers(1, 12),
    st.integers(0, 12),
    calls,
)
LIMITS = Limits(max_steps=9, max_tools=7, max_tokens=100, max_context=50)
START = Standing(RunStatus.RUNNING, 2, 0, 1, Usage(), LIMITS)


def landed(run: Standing, commit: Attempted) -> Standing:
    charge = commit.charge
    spent = run.spent.plus(Usage(charge.steps, charge.tools, charge.tokens, charge.context))
    sequence = run.last_sequence + 1 if commit.first_sequence else run.last_sequence
    return replace(run, last_commit=commit.number, last_sequence=sequence, spent=spent)


@given(st.lists(attempts, max_size=60))
def test_what_lands_is_in_order_and_never_above_the_budget_by_more_than_one_call(
    sent: list[tuple[Attempted, list[tuple[int, int, int, int]]]],
) -> None:
    run, largest = START, 0
    for commit, spent in sent:
        if verdict(commit, run) is not Verdict.LANDS:
            continue
        assert (commit.epoch, commit.number) == (run.epoch, run.last_commit + 1)
        largest = max([largest, *(tokens for _, _, tokens, _ in spent)])
        run = landed(run, commit)
        assert verdict(commit, run) is Verdict.STORED
        assert run.spent.steps <= LIMITS.max_steps
        assert run.spent.tools <= LIMITS.max_tools
        assert run.spent.context <= LIMITS.max_context
        assert run.spent.tokens < LIMITS.max_tokens + max(largest, 1)


@given(attempts, st.sampled_from(RunStatus), st.integers(1, 3), st.integers(0, 12))
def test_nothing_lands_under_another_epoch_or_without_a_lease(
    sent: tuple[Attempted, object], status: RunStatus, epoch: int, last_commit: int
) -> None:
    commit, _ = sent
    run = replace(START, status=status, epoch=epoch, last_commit=last_commit)
    if verdict(commit, run) is Verdict.LANDS:
        assert commit.epoch == epoch
        assert status is RunStatus.RUNNING
    assert verdict(commit, None) is Verdict.NOT_FOUND
