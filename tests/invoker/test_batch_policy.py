"""Who may say that outputs are accepted unseen: those who may judge them, and nobody beside them."""

from contextvars import copy_context

import pytest

from holdfast.invoker.batch_policy import allow_policy
from holdfast.kit.auth.identity import Identity, enter
from holdfast.kit.auth.role import ADMIN, APPROVE, INVOKE, OPERATE
from holdfast.kit.errors import PermissionDenied
from holdfast.v1.batch_pb2 import ReviewPolicy

ACCEPTS = ReviewPolicy(min_accepted_share=0.01, apply_when_met=True)


def asked(*roles: str, policy: ReviewPolicy = ACCEPTS) -> None:
    def call() -> None:
        enter(Identity("acme", "ada", roles=frozenset(roles)))
        allow_policy(policy)

    copy_context().run(call)


@pytest.mark.parametrize("role", [INVOKE, OPERATE])
def test_whoever_may_not_review_cannot_let_a_policy_do_it(role: str) -> None:
    with pytest.raises(PermissionDenied):
        asked(role)
    asked(role, policy=ReviewPolicy(reviewer_intent="judge", min_judged=10))


@pytest.mark.parametrize("role", [APPROVE, ADMIN])
def test_whoever_may_review_may_leave_it_to_a_policy(role: str) -> None:
    asked(role)
    allow_policy(ACCEPTS)  # and without identity anybody may
