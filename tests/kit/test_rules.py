"""Nothing is reachable without a rule, and no rule stands for an RPC that is not there."""

from typing import Any

import pytest

from holdfast.keda import externalscaler_pb2
from holdfast.kit.auth.identity import EVERY, Identity
from holdfast.kit.auth.role import HOLDS, PEOPLE, ROLES, RUNNER, SCALER
from holdfast.kit.auth.rule import RULES
from holdfast.kit.errors import PermissionDenied
from holdfast.kit.rpc.identity import check
from tests.contract.description import rpcs

SERVICE: Any = externalscaler_pb2.DESCRIPTOR.services_by_name["ExternalScaler"]
KEDA = SERVICE.full_name


def test_every_rpc_of_the_contract_has_a_rule_and_every_rule_an_rpc() -> None:
    keda = {f"/{KEDA}/{method.name}" for method in SERVICE.methods}
    assert {rpc.path for rpc in rpcs()} | keda == set(RULES)


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


def test_what_decides_how_many_runners_there_are_may_do_nothing_else() -> None:
    allowed = {method for method, rule in RULES.items() if SCALER in rule.roles}
    assert {method.split("/")[1] for method in allowed} == {KEDA}
    assert HOLDS[SCALER] == {SCALER}
    assert all(SCALER not in HOLDS[role] for role in (*PEOPLE, RUNNER))
    assert {method for method, rule in RULES.items() if rule.carried} == allowed
