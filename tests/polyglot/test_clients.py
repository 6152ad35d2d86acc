"""A client in each language does what clients do, and prints the same lines as the others."""

import os
import subprocess
from typing import Any

import grpc
import pytest

from holdfast.v1 import invoker_service_pb2, invoker_service_pb2_grpc
from tests.polyglot.conftest import built
from tests.polyglot.languages import LANGUAGES
from tests.polyglot.toolchain import program

pytestmark = pytest.mark.timeout(900)  # whoever comes first builds

PATIENCE_S = 90.0
SESSION = """\
invoked: SUCCEEDED hello Ada
again: true true
refused: 6 IDEMPOTENCY_KEY_REUSED true
malformed: 3 INVALID_FIELD intent
streamed: one two three
resumed: one two three four more true SUCCEEDED
stopped: CANCELLED
published: false true true UNKNOWN_INTENT
approved: approved by ada
batch: COMPLETED 1 SUCCEEDED 5 20
"""
RUNS = {
    "polyglot.greet": 2,  # one invoked twice, one published twice; two refused
    "polyglot.recite": 1,
    "polyglot.drone": 1,
    "polyglot.order": 1,
    "polyglot.double": 5,
}


@pytest.fixture(params=sorted(LANGUAGES))
def language(request: pytest.FixtureRequest) -> str:
    """Each language; skipped where it cannot be built, with the reason."""
    built(request.param)
    return str(request.param)


def ran(language: str, name: str, suite: dict[str, str], *arguments: str) -> str:
    """Run a program to its end; return what it prints, with single spaces."""
    told = {f"HOLDFAST_{place.upper()}": address for place, address in suite.items()}
    done = subprocess.run(
        [*program(LANGUAGES[language], name), *arguments],
        cwd=LANGUAGES[language].folder,
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return "".join(" ".join(line.split()) + "\n" for line in done.stdout.splitlines())


async def runs(suite: dict[str, str], tenant: str) -> dict[str, int]:
    """Count the runs of a tenant by intent."""
    counted: dict[str, int] = {}
    async with grpc.aio.insecure_channel(suite["invoker"]) as channel:
        stub: Any = invoker_service_pb2_grpc.InvokerServiceStub(channel)
        listed = await stub.ListRuns(
            invoker_service_pb2.ListRunsRequest(page_size=500), metadata=[("holdfast-tenant", tenant)]
        )
    for run in listed.runs:
        counted[run.intent] = counted.get(run.intent, 0) + 1
    return counted


async def test_a_client_does_what_clients_do(language: str, suite: dict[str, str]) -> None:
    assert ran(language, "session", suite, f"{language}-tenant") == SESSION
    assert await runs(suite, f"{language}-tenant") == RUNS


def test_the_first_client_of_the_docs_greets(language: str, suite: dict[str, str]) -> None:
    printed = ran(language, "hello", suite)
    assert "RUN_STATUS_SUCCEEDED" in printed
    assert "hello Ada" in printed
