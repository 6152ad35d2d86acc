"""The README's grpcurl session does what the README says, typed as it stands there."""

import asyncio
import os
import re

import pytest

from tests.contract.description import ROOT

GRPCURL = ROOT / ".tools/bin/grpcurl"
PATIENCE_S = 60.0
NOT_FOUND = 64 + 5
"""How grpcurl ends when the status was NOT_FOUND."""

pytestmark = pytest.mark.skipif(
    not GRPCURL.exists(), reason="there is no .tools/bin/grpcurl; `make tools` builds it where Go is at hand"
)


async def typed(script: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-euo",
        "pipefail",
        "-c",
        script,
        env={**os.environ, "PATH": f"{GRPCURL.parent}:{os.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_readme_s_session_works_from_top_to_bottom(suite: dict[str, str]) -> None:
    block = re.search(
        r"```\n(holdfast=127\.0\.0\.1:7401\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert block
    session = (
        block[1].replace("127.0.0.1:7401", suite["invoker"]).replace("127.0.0.1:7402", suite["checkpoint"])
    )
    code, out, err = await typed(session)
    assert code == NOT_FOUND, err  # the last line asks for what nobody serves
    assert "UNKNOWN_INTENT" in err
    assert '"known": "greet"' in err
    for said in (
        "holdfast.v1.InvokerService",
        "rpc Invoke ( .holdfast.v1.InvokeRequest )",
        '"status": "RUN_STATUS_SUCCEEDED"',
        '"result": "hello Ada"',
        '"text": "looking up Ada"',
        '"key": "look_up"',
    ):
        assert said in out


async def test_each_process_lists_and_describes_its_services(suite: dict[str, str]) -> None:
    for address in suite.values():
        code, listed, err = await typed(f"grpcurl -plaintext {address} list")
        assert code == 0, err
        ours = [name for name in listed.split() if name.startswith("holdfast.v1.")]
        assert ours
        code, described, err = await typed(f"grpcurl -plaintext {address} describe {ours[0]}")
        assert code == 0, err
        assert f"{ours[0]} is a service:" in described


async def test_the_details_of_a_refusal_are_readable(suite: dict[str, str]) -> None:
    call = f"{suite['invoker']} holdfast.v1.InvokerService/Invoke"
    _, _, err = await typed(f"""grpcurl -plaintext -d '{{"intent": "", "run_id": "x"}}' {call}""")
    assert '"reason": "INVALID_FIELD"' in err
    assert '"field": "intent"' in err
    assert '"field": "run_id"' in err
