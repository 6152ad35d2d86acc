"""One `holdfast dev` for the tests of this folder, as a newcomer starts it."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.description import ROOT

PATIENCE_S = 60.0


@pytest.fixture(scope="session")
def suite() -> Iterator[dict[str, str]]:
    """The addresses of running services that serve the README's first agent."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL's account has to enter
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        arguments = ["dev", "--ephemeral", "--port", "0", "--json", "--agents", "examples.hello:app"]
        with (
            (folder / "log").open("wb") as log,
            subprocess.Popen(
                [sys.executable, "-m", "holdfast.cli", *arguments],
                cwd=folder,
                env={**kept, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=log,
            ) as process,
        ):
            try:
                assert process.stdout is not None
                ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
                line = process.stdout.readline() if ready else b""
                assert line, (folder / "log").read_text()
                where = json.loads(line)
                names = ("checkpoint", "approval", "dispatcher", "runner")
                yield {"invoker": where["grpc"], **{name: where[name] for name in names}}
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE_S)
