"""Nothing is reachable without a rule, and no rule stands for an RPC that is not there."""

import pytest

from holdfast.kit.auth.identity import EVERY, Identity
from holdfast.kit.auth.role import HOLDS, PEOPLE, ROLES, RUNNER
from holdfast.kit.auth.rule import RULES
from holdfast.kit.errors import PermissionDenied
from holdfast.kit.rpc.identity import check
from tests.contract.description import rpcs


def test_every_rpc_of_the_contract_has_a_rule_and_every_rule_an_rpc() -> None:
    assert {rpc.path for rpc in rpcs()} == set(RULES)


def test_a_rule_asks_for_roles_there_are() -> None:
    assert all(rule.roles <= set(ROLES) for rule in RULES.values())
    assert [method for method, rule in RULES.items() if not rule.roles] == [
        "/holdfast.v1.AccessService/WhoAmI"
    ]


def test_no_person_is_a_runner_and_a_runner_is_no_person() -> None:
    assert all(RUNNER not in HOLDS[role] for role in PEOPLE)
    assert HOLDS[RUNNER] == {RUNNER}


def test_whatever_takes_a_runner_alone_takes_the_platforms() -> None:
    assert all(rule.platform for rule in RULES.values() if rule.roles == {RUNNER})


def test_an_rpc_without_a_rule_is_refused_to_everybody() -> None:
    with pytest.raises(PermissionDenied):
        check(None, Identity(EVERY, "root", roles=frozenset(ROLES)))


def test_a_role_that_only_approvals_know_lets_one_do_nothing() -> None:
    with pytest.raises(PermissionDenied):
        check(RULES["/holdfast.v1.InvokerService/GetRun"], Identity("acme", "eve", roles=frozenset({"boss"})))
