"""Each alert fires when what it is for happens, says it in its sentence, and is silent in a healthy world."""

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.chart import CHART, tool
from tests.deploy.test_telemetry import alerts, registries

RULES = CHART / "files/alerts.yaml"
MINUTES = 60
CALLS = "holdfast_grpc_request_duration_seconds_count"
INVOKE = 'method="holdfast.v1.InvokerService/Invoke"'


def quick(name: str, labels: str, bound: str) -> dict[str, str]:
    """Return a histogram of which all is quicker than a bound."""
    return {f'{name}_bucket{{{labels}le="{le}"}}': "0+100x60" for le in (bound, "+Inf")}


HEALTHY: Mapping[str, str] = {
    **{
        f'holdfast_service{{service="{service}"}}': "1x60"
        for service in ("invoker", "checkpoint", "approval", "dispatcher", "runner")
    },
    f'{CALLS}{{{INVOKE},code="OK"}}': "0+600x60",
    f'{CALLS}{{{INVOKE},code="UNAVAILABLE"}}': "0+6x60",
    f'{CALLS}{{{INVOKE},code="INTERNAL"}}': "0x60",
    **quick("holdfast_admission_duration_seconds", 'outcome="created",', "0.5"),
    'holdfast_refusals_total{reason="QUEUE_FULL"}': "0+30x60",
    'holdfast_refusals_total{reason="INVALID_FIELD"}': "0+600x60",
    'holdfast_runners_connected{instance="a"}': "2x60",
    'holdfast_queue_oldest_age_seconds{intent="triage"}': "290x60",
    **quick("holdfast_queue_wait_seconds", 'class="service",', "5.0"),
    'holdfast_queue_wait_seconds_bucket{class="batch",le="5.0"}': "0x60",
    'holdfast_queue_wait_seconds_bucket{class="batch",le="600.0"}': "0+100x60",
    'holdfast_queue_wait_seconds_bucket{class="batch",le="+Inf"}': "0+100x60",
    **quick("holdfast_claim_duration_seconds", "", "0.5"),
    **quick("holdfast_commit_duration_seconds", 'line="moves",', "1.0"),
    'holdfast_commits_total{line="moves",answer="refused"}': "0+60x60",
    'holdfast_commits_total{line="moves",answer="put_off"}': "0x60",
    'holdfast_leases_lost_total{became="requeued"}': "0x1 8x60",
    'holdfast_runs_ended_total{status="FAILED"}': "0+60x60",
    'holdfast_runs_ended_total{status="DEAD_LETTERED"}': "3x60",
    'holdfast_step_duration_seconds_count{kind="tool",outcome="succeeded"}': "0+90x60",
    'holdfast_step_duration_seconds_count{kind="tool",outcome="failed"}': "0+10x60",
    'holdfast_model_call_duration_seconds_count{model="tiny",outcome="succeeded"}': "0+90x60",
    'holdfast_model_call_duration_seconds_count{model="tiny",outcome="failed"}': "0+10x60",
    "holdfast_timer_lag_seconds": "50x60",
    "holdfast_approval_lag_seconds": "50x60",
    'holdfast_effects_oldest_age_seconds{kind="http"}': "590x60",
    'holdfast_effects_total{kind="http",outcome="delivered"}': "0+60x60",
    'holdfast_effects_total{kind="http",outcome="dead_lettered"}': "3x60",
    'holdfast_breakers_tripped{state="open"}': "0x60",
    'holdfast_breakers_tripped{state="half_open"}': "1x60",
    'holdfast_db_pool_used{instance="a"}': "9x60",
    'holdfast_db_pool_size{instance="a"}': "10x60",
    **quick("holdfast_event_loop_lag_seconds", 'service="runner",pod="p",instance="a",', "0.25"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """What is otherwise than in a healthy world (an empty series: is missing), and what is then said."""

    alert: str
    otherwise: Mapping[str, str]
    summary: str
    labels: Mapping[str, str] = field(default_factory=dict)
    after: int = 30
    """Minutes."""


def slow(name: str, labels: str, bound: str) -> dict[str, str]:
    """Return a histogram of which two in a hundred take longer than a bound, some up to twice that."""
    twice = f"{2 * float(bound)}"
    counts = {bound: "0+90x60", twice: "0+100x60", "+Inf": "0+100x60"}
    return {f'{name}_bucket{{{labels}le="{le}"}}': values for le, values in counts.items()}


CASES = (
    Case(
        "HoldfastServiceMissing",
        {'holdfast_service{service="approval"}': ""},
        "No approval is there to be read.",
        {"service": "approval"},
    ),
    Case(
        "HoldfastErrors",
        {f'{CALLS}{{{INVOKE},code="INTERNAL"}}': "0+1x60"},
        "holdfast.v1.InvokerService/Invoke fails in ways nobody has foreseen.",
        {"method": "holdfast.v1.InvokerService/Invoke"},
    ),
    Case(
        "HoldfastUnavailable",
        {f'{CALLS}{{{INVOKE},code="UNAVAILABLE"}}': "0+200x60"},
        "25% of all calls are answered UNAVAILABLE.",
    ),
    Case(
        "HoldfastAdmissionSlow",
        slow("holdfast_admission_duration_seconds", 'outcome="created",', "0.5"),
        "One invocation in a hundred waits 950ms at the door.",
    ),
    Case(
        "HoldfastInvocationsRefused",
        {'holdfast_refusals_total{reason="QUEUE_FULL"}': "0+120x60"},
        "2 invocations a second are refused: QUEUE_FULL.",
        {"reason": "QUEUE_FULL"},
    ),
    Case(
        "HoldfastNoRunners",
        {'holdfast_runners_connected{instance="a"}': "0x60"},
        "No runner is connected to any Invoker.",
    ),
    Case(
        "HoldfastQueueStalled",
        {'holdfast_queue_oldest_age_seconds{intent="triage"}': "360x60"},
        "Runs of triage have waited 6m 0s for a runner.",
        {"intent": "triage"},
    ),
    Case(
        "HoldfastQueueWaitLong",
        slow("holdfast_queue_wait_seconds", 'class="service",', "5.0"),
        "One interactive run in twenty waits 7.5s before it starts.",
    ),
    Case(
        "HoldfastClaimsSlow",
        slow("holdfast_claim_duration_seconds", "", "0.5"),
        "One claim in a hundred takes 950ms.",
    ),
    Case(
        "HoldfastCommitsSlow",
        slow("holdfast_commit_duration_seconds", 'line="moves",', "1.0"),
        "One commit in a hundred takes 1.9s to be durable.",
    ),
    Case(
        "HoldfastCommitsPutOff",
        {'holdfast_commits_total{line="moves",answer="put_off"}': "0+1x60"},
        "Commits do not reach the ledger, and are sent again and again.",
    ),
    Case(
        "HoldfastLeasesLost",
        {'holdfast_leases_lost_total{became="requeued"}': "0x1 0+2x60"},
        "30 runs lost their runner within a quarter of an hour.",
    ),
    Case(
        "HoldfastRunsDeadLettered",
        {'holdfast_runs_ended_total{status="DEAD_LETTERED"}': "3x2 4x60"},
        "Runs were set aside after their last attempt.",
        after=10,
    ),
    Case(
        "HoldfastStepsFailing",
        {'holdfast_step_duration_seconds_count{kind="tool",outcome="failed"}': "0+30x60"},
        "25% of the tool steps fail for good.",
        {"kind": "tool"},
    ),
    Case(
        "HoldfastModelsFailing",
        {'holdfast_model_call_duration_seconds_count{model="tiny",outcome="failed"}': "0+30x60"},
        "25% of the calls of tiny fail.",
        {"model": "tiny"},
    ),
    Case(
        "HoldfastTimersLate",
        {"holdfast_timer_lag_seconds": "90x60"},
        "Deadlines and waits are acted on 1m 30s late.",
    ),
    Case(
        "HoldfastApprovalsLate",
        {"holdfast_approval_lag_seconds": "90x60"},
        "Reminders and timeouts of approvals are 1m 30s late.",
    ),
    Case(
        "HoldfastEffectsDelayed",
        {'holdfast_effects_oldest_age_seconds{kind="http"}': "900x60"},
        "An effect to a destination of kind http has been due for 15m 0s.",
        {"kind": "http"},
    ),
    Case(
        "HoldfastEffectsDeadLettered",
        {'holdfast_effects_total{kind="http",outcome="dead_lettered"}': "3x2 4x60"},
        "Effects to destinations of kind http were set aside after their last attempt.",
        {"kind": "http"},
        after=10,
    ),
    Case(
        "HoldfastBreakerOpen",
        {'holdfast_breakers_tripped{state="open"}': "2x60"},
        "2 destinations have not answered for a while.",
    ),
    Case(
        "HoldfastPoolExhausted",
        {'holdfast_db_pool_used{instance="a"}': "10x60"},
        "A process has had no free connection to the ledger for minutes.",
        {"instance": "a"},
    ),
    Case(
        "HoldfastLoopLag",
        slow("holdfast_event_loop_lag_seconds", 'service="runner",pod="p",instance="a",', "0.25"),
        "The event loop of a process comes 475ms late.",
        {"service": "runner", "pod": "p", "instance": "a"},
    ),
)


def firing(minute: int, *expected: Mapping[str, str]) -> dict[str, Any]:
    """Return what promtool is to find: exactly these alerts, by all their labels."""
    samples = [
        {"labels": "ALERTS{" + ",".join(f'{name}="{value}"' for name, value in one.items()) + "}", "value": 1}
        for one in expected
    ]
    return {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{minute}m", "exp_samples": samples}


def run(folder: Path, series: Mapping[str, str], **expected: Any) -> None:
    """Have promtool see a world, and what it expects of it."""
    inputs = [{"series": name, "values": values} for name, values in series.items() if values]
    world = {"interval": "1m", "input_series": inputs, **expected}
    file = folder / "world.json"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [world]}))
    done = subprocess.run(
        [tool("promtool"), "test", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_what_prometheus_reads() -> None:
    done = subprocess.run(
        [tool("promtool"), "check", "rules", "--lint=all", "--lint-fatal", RULES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_healthy_world_is_silent(tmp_path: Path) -> None:
    run(tmp_path, HEALTHY, promql_expr_test=[firing(minute) for minute in range(1, MINUTES)])


def test_every_alert_is_tried() -> None:
    assert [case.alert for case in CASES] == [rule["alert"] for rule in alerts()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_it_fires_alone_after_its_time_and_says_why(case: Case, tmp_path: Path) -> None:
    (rule,) = (rule for rule in alerts() if rule["alert"] == case.alert)
    labels = {**case.labels, **rule["labels"]}
    # A rate is known from the second minute on.
    minutes = int(rule.get("for", "0m").removesuffix("m"))
    found = [firing(minute) for minute in range(minutes)]
    found.append(firing(case.after, {"alertname": case.alert, "alertstate": "firing", **labels}))
    said = {
        "eval_time": f"{case.after}m",
        "alertname": case.alert,
        "exp_alerts": [{"exp_labels": labels, "exp_annotations": {"summary": case.summary}}],
    }
    run(tmp_path, {**HEALTHY, **case.otherwise}, promql_expr_test=found, alert_rule_test=[said])


def test_what_alerts_count_is_shown_before_it_happens() -> None:
    # Of a series that begins with its first count Prometheus sees no increase.
    counted = [
        (name, dict(re.findall(r'(\w+)="(\w+)"', chosen)))
        for rule in alerts()
        for name, chosen in re.findall(r"increase\((\w+)(?:\{([^}]*)\})?\[", rule["expr"])
    ]
    assert len(counted) >= 3
    samples = [
        sample for registry in registries() for family in registry.collect() for sample in family.samples
    ]
    for name, chosen in counted:
        assert [one for one in samples if one.name == name and chosen.items() <= one.labels.items()], name
