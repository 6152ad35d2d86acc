"""The docs' session with grpcurl and the descriptor set, typed as it stands there."""

import os
import subprocess

import pytest

from tests.polyglot.toolchain import ROOT, STUBS, block

GRPCURL = ROOT / ".tools/bin/grpcurl"
PATIENCE_S = 60.0

pytestmark = pytest.mark.skipif(
    not GRPCURL.exists(), reason="there is no .tools/bin/grpcurl; `make tools` builds it where Go is at hand"
)


def test_the_docs_session_with_the_descriptor_set_works_from_top_to_bottom(suite: dict[str, str]) -> None:
    session = block(STUBS, "grpcurl and the descriptor set", "").replace("127.0.0.1:7401", suite["invoker"])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", session],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{GRPCURL.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.count('"duplicate": true') == 1
    for said in (
        '"text": "looking up Bob"',
        '"result": "hello Bob"',
        '"status": "BATCH_STATUS_COMPLETED"',
        '"output": "hello Ada"',
        '"output": "hello Eve"',
    ):
        assert said in done.stdout
