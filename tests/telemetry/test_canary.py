"""What was given in confidence is in nothing that the services tell of themselves."""

import re

from examples.standins.fault import Fault
from tests.kit.until import until
from tests.telemetry.conftest import MODEL_KEY, SERVICES, SIGNING_SECRET, Watched

PATIENCE_S = 60.0
PAYLOAD = "canary-of-a-payload-7f3a"


async def test_secrets_and_payloads_are_in_no_log_no_trace_and_no_metric(watched: Watched) -> None:
    client, collector = watched.client, watched.collector
    asked = {"topic": PAYLOAD}
    done = await client.invoke("telemetry.work", asked, wait=PATIENCE_S)
    assert done.run.status.name == "SUCCEEDED"
    failed = await client.invoke("telemetry.fail", asked, wait=PATIENCE_S)
    assert PAYLOAD in str(failed.run)  # the run itself is its caller's to read
    await collector.until(lambda: bool(collector.find("deliver sink", run_id=done.run_id)))
    await collector.until(lambda: bool(collector.find("invoke_agent telemetry.fail", run_id=failed.run_id)))

    said = {name: watched.suite.log(name) for name in SERVICES}
    said["traces"] = collector.raw.decode("latin-1")
    said |= {f"metrics of {name}": await watched.page(name) for name in SERVICES}
    assert all(len(text) > 100 for text in said.values()), {name: len(text) for name, text in said.items()}
    password = re.search(r"://[^:/]*:([^@]+)@", watched.suite.database_url)
    secrets = {
        "a payload": PAYLOAD,
        "the model's key": MODEL_KEY,
        "a signing secret": SIGNING_SECRET,
        "the database's password": password[1] if password else None,
    }
    found = [
        (what, where)
        for what, secret in secrets.items()
        if secret is not None
        for where in said
        if secret in said[where]
    ]
    assert found == []
    assert PAYLOAD in str(watched.receiver.deliveries[-1].body)  # it was there to be told


async def test_every_line_about_a_run_says_which_what_it_is_tied_to_and_its_trace(watched: Watched) -> None:
    collector = watched.collector
    watched.receiver.faults.add(Fault("400"))
    handle = await watched.client.invoke(
        "telemetry.work", {"topic": "boats"}, correlation_id="order-7", wait=PATIENCE_S
    )
    run_id = handle.run_id
    await watched.client.get_run(run_id)
    await collector.until(lambda: bool(collector.find("lease", run_id=run_id)))
    trace = collector.find("lease", run_id=run_id)[0].trace

    (authors,) = watched.lines("runner", logger="author", event="looking up")
    about = {"run_id": run_id, "correlation_id": "order-7", "trace_id": trace}
    assert about.items() <= authors.items()
    await until(lambda: bool(watched.lines("dispatcher", event="effect set aside")))
    assert about.items() <= watched.lines("dispatcher", event="effect set aside")[0].items()
    (read,) = watched.lines("invoker", event="call", method="/holdfast.v1.InvokerService/GetRun")
    assert read["run_id"] == run_id
    assert len(read["trace_id"]) == 32


async def test_an_attempt_that_failed_is_in_the_log_and_its_span_says_so(watched: Watched) -> None:
    collector = watched.collector
    handle = await watched.client.invoke(
        "telemetry.shaky", {"topic": "boats"}, correlation_id="order-8", wait=PATIENCE_S
    )
    assert handle.run.status.name == "DEAD_LETTERED"
    await collector.until(lambda: bool(collector.find("invoke_agent telemetry.shaky", run_id=handle.run_id)))
    (activation, *_) = collector.find("invoke_agent telemetry.shaky", run_id=handle.run_id)
    about = {"run_id": handle.run_id, "correlation_id": "order-8", "trace_id": activation.trace}
    assert activation.failed
    assert activation.attributes["error.type"] == "ConnectionError"
    # Who waits hears of the end before the runner has its commit acknowledged, and writes the last line.
    await until(lambda: len(watched.lines("runner", event="attempt failed")) >= handle.run.attempt)
    attempts = watched.lines("runner", event="attempt failed")
    assert [line["attempt"] for line in attempts] == list(range(1, handle.run.attempt + 1))
    told = {"reason": "ConnectionError", "step": "call_the_bank", "intent": "telemetry.shaky"}
    assert all((about | told).items() <= line.items() for line in attempts)
    await until(lambda: bool(watched.lines("checkpoint", event="run dead-lettered")))
    (ended,) = watched.lines("checkpoint", event="run dead-lettered")
    assert about.items() <= ended.items()

    failed = await watched.client.invoke("telemetry.fail", {"topic": "boats"}, wait=PATIENCE_S)
    assert failed.run.status.name == "FAILED"
    await until(lambda: bool(watched.lines("runner", event="attempt failed", run_id=failed.run_id)))
    (line,) = watched.lines("runner", event="attempt failed", run_id=failed.run_id)
    assert line["attempt"] == 1
    done = await watched.client.invoke("telemetry.work", {"topic": "boats"}, wait=PATIENCE_S)
    assert done.run.status.name == "SUCCEEDED"
    assert watched.lines("runner", event="attempt failed", run_id=done.run_id) == []
