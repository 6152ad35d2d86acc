"""One `holdfast dev` as a newcomer starts it, for tests that speak to it from outside."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
_PLACES = ("checkpoint", "approval", "dispatcher", "runner")


@contextmanager
def live_suite(
    agents: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[dict[str, str]]:
    """Start the suite with these agents; yields the address of each service by name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL's account has to enter
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        arguments = ["dev", "--ephemeral", "--port", "0", "--json", "--no-reload"]
        arguments += [word for each in agents for word in ("--agents", each)]
        with (
            (folder / "log").open("wb") as log,
            subprocess.Popen(
                [sys.executable, "-m", "holdfast.cli", *arguments],
                cwd=folder,
                env={**kept, **environment, "PYTHONPATH": str(ROOT)},
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
                yield {"invoker": where["grpc"], **{name: where[name] for name in _PLACES}}
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE_S)
