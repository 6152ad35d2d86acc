"""Every RPC by every role of every tenant, against a whole suite: nothing is reachable without its rule."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast.client.errors import HoldfastError
from holdfast.kit.auth.role import HOLDS, ROLES, RUNNER
from holdfast.kit.auth.rule import RULES, Rule
from tests.access.guarded import KEY, guarding, token_of
from tests.contract.description import Rpc, errors_of, rpcs
from tests.support.issuer import Key

REFUSALS = ("UNAUTHENTICATED", "PERMISSION_DENIED", "TENANT_MISMATCH", "CAPABILITY_REFUSED")


@dataclass(frozen=True)
class Caller:
    """A credential, and what is to be expected of it."""

    name: str
    token: str | None
    roles: frozenset[str] = frozenset()
    tenant: str = ""
    says: str | None = None

    def expected(self, rpc: Rpc, rule: Rule) -> str:
        """Return the reason with which a call is refused; empty if it is let in."""
        if not self.tenant or rpc.service.endswith(".RunnerService"):
            return "UNAUTHENTICATED"  # a runner takes only what it told the Invokers
        held = frozenset().union(*(HOLDS.get(role, frozenset()) for role in self.roles))
        if rule.roles and not rule.roles & held:
            return "PERMISSION_DENIED"
        if rule.platform and self.tenant != "*":
            return "PERMISSION_DENIED"
        if self.tenant not in ("*", self.says or self.tenant):
            return "TENANT_MISMATCH"
        if rule.leased and held == {RUNNER} and rpc.method != "Commit":
            return "CAPABILITY_REFUSED"
        return ""


async def callers(url: str) -> list[Caller]:
    """Return a caller for each role in each tenant, and those that are none."""
    told = [
        Caller("nobody", None),
        Caller("a token that is none", "hf_" + "x" * 43),
        Caller("a JWT of another issuer's", Key("one").sign()),
        Caller("a role nobody knows", await token_of(url, "boss"), frozenset({"boss"}), "acme"),
    ]
    for role in ROLES:
        roles = frozenset({role})
        for tenant in ("acme", "*"):
            token = await token_of(url, role, tenant=tenant, user=role)
            told.append(Caller(f"{role} of {tenant}", token, roles, tenant))
            told.append(Caller(f"{role} of {tenant} for umbrella", token, roles, tenant, "umbrella"))
        signed = KEY.sign({"sub": role, "roles": [role]})
        told.append(Caller(f"{role} by JWT", signed, roles - {RUNNER}, "acme"))
    return told


@pytest.mark.timeout(300)
async def test_every_rpc_takes_whom_its_rule_names_and_nobody_else(database_url: str, tmp_path: Path) -> None:
    async with guarding(database_url, tmp_path) as guarded:
        everybody = await callers(database_url)
        wrong = []
        let_in = refused = 0
        for rpc in rpcs():
            named = errors_of(rpc) | {"TENANT_MISMATCH"}
            answers = await asyncio.gather(
                *(guarded.call(rpc, caller.token, tenant=caller.says) for caller in everybody)
            )
            for caller, told in zip(everybody, answers, strict=True):
                reason = _refusal(told)
                expected = caller.expected(rpc, RULES[rpc.path])
                let_in += not expected
                refused += bool(expected)
                if reason != expected:
                    wrong.append(f"{rpc.path} by {caller.name}: {reason or told!r}, not {expected!r}")
                if expected and expected not in named:
                    wrong.append(f"{rpc.path} refuses with {expected}, and its comment does not say so")
        assert not wrong, "\n".join(sorted(set(wrong))[:40])
        assert let_in > 300
        assert refused > 900


@pytest.mark.parametrize(
    ("role", "may", "may_not"),
    [
        (
            "read",
            ["GetRun", "ListEffects", "WatchRun"],
            ["Invoke", "CancelRun", "DecideApproval", "RetryRun"],
        ),
        (
            "invoke",
            ["Invoke", "Converse", "CancelRun", "GetRun"],
            ["DecideApproval", "RetryRun", "CreateToken"],
        ),
        ("approve", ["DecideApproval", "ListApprovals"], ["Invoke", "CancelRun", "RetryEffect", "Commit"]),
        (
            "operate",
            ["RetryRun", "CancelRun", "DiscardEffect"],
            ["Invoke", "DecideApproval", "PutDestination"],
        ),
        (
            "admin",
            ["CreateToken", "PutDestination", "Invoke", "DecideApproval"],
            ["Lease", "Commit", "LoadRun"],
        ),
        ("runner", ["Lease", "Commit", "LoadRun"], ["GetRun", "ListRuns", "DecideApproval", "WhoIsThere"]),
    ],
)  # by hand, beside what is generated: the table itself could be wrong
def test_roles_are_what_people_take_them_for(role: str, may: list[str], may_not: list[str]) -> None:
    held = HOLDS[role]
    reached = {path.rpartition("/")[2] for path, rule in RULES.items() if rule.roles & held}
    assert reached >= set(may)
    assert reached.isdisjoint(may_not)


def _refusal(told: HoldfastError | None) -> str:
    if told is None or told.reason not in REFUSALS:
        return ""
    return told.reason
