"""What a suite consists of: ports, environments, records, folders to watch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.dev import PortBusyError
from holdfast.dev.console_secret import console_secret
from holdfast.dev.database import acting_as, logging_in_as
from holdfast.dev.log_line import readable
from holdfast.dev.plan import Plan
from holdfast.dev.port import USUAL, choose_addresses, is_free
from holdfast.dev.record import FOLDER, find_record, remove_record, write_record
from holdfast.dev.reload import CodeFolder, agent_folders, is_importable


def test_port_zero_leaves_every_port_to_its_process() -> None:
    assert set(choose_addresses(0, ["invoker", "runner", "runner-2"]).values()) == {"127.0.0.1:0"}


def test_a_busy_port_that_was_asked_for_is_refused_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(PortBusyError, match=f"^Port {port} of 127.0.0.1 is in use; .*--port"):
            choose_addresses(port, ["invoker"])


def test_another_service_s_usual_port_that_is_busy_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder, socket.create_server(("127.0.0.1", 0)) as other:
        busy, free = holder.getsockname()[1], other.getsockname()[1]
        other.close()
        monkeypatch.setattr("holdfast.dev.port.USUAL", {**USUAL, "checkpoint": busy})
        chosen = choose_addresses(free, ["invoker", "checkpoint"])
    assert chosen == {"invoker": f"127.0.0.1:{free}", "checkpoint": "127.0.0.1:0"}


def test_only_the_console_is_told_what_signs_its_cookies(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = {"HOLDFAST_CONSOLE_OIDC_SECRET": "o", "HOLDFAST_CONSOLE_SECRET": "s" * 32}
    secret |= {"HOLDFAST_DATABASE_URL": "x", "HOLDFAST_SECRET_A": "y"}
    for name, value in secret.items():
        monkeypatch.setenv(name, value)
    plan = Plan(["a:app"], console=True)
    addresses = {"checkpoint": "c:1", "approval": "a:1", "dispatcher": "d:1"}
    told = plan.environment_of("console", plan.console_environment(["i:1", "i:2"], addresses, "k" * 32))
    assert (told["HOLDFAST_CONSOLE_SECRET"], told["HOLDFAST_INVOKER_ADDRESS"]) == ("s" * 32, "i:1,i:2")
    assert not {"HOLDFAST_DATABASE_URL", "HOLDFAST_SECRET_A"} & told.keys()
    assert "HOLDFAST_CONSOLE_SECRET" not in plan.environment_of("runner", {})
    assert "HOLDFAST_CONSOLE_OIDC_SECRET" not in plan.environment_of("runner", {})
    monkeypatch.delenv("HOLDFAST_CONSOLE_SECRET")
    assert plan.console_environment([], addresses, "k" * 32)["HOLDFAST_CONSOLE_SECRET"] == "k" * 32


def test_who_has_signed_in_stays_so_over_a_restart_with_the_same_data(tmp_path: Path) -> None:
    first = console_secret(tmp_path / "data")
    assert (len(first), console_secret(tmp_path / "data")) == (64, first)
    assert [each.stat().st_mode & 0o777 for each in (tmp_path / "data").iterdir()] == [0o600]
    assert console_secret(None) != console_secret(None)


def test_the_edge_is_told_what_its_sources_are_verified_with_and_no_other_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secrets = (
        "HOLDFAST_CONSOLE_SECRET",
        "HOLDFAST_DATABASE_URL",
        "HOLDFAST_CAPABILITY_KEY",
        "HOLDFAST_SECRET_A",
    )
    for name in secrets:
        monkeypatch.setenv(name, "y")
    told = Plan(["a:app"], edge=True).environment_of("edge", {"HOLDFAST_INVOKER_ADDRESS": "i:1"})
    assert [name for name in secrets if name in told] == ["HOLDFAST_SECRET_A"]
    assert told["HOLDFAST_INVOKER_ADDRESS"] == "i:1"


def test_a_runner_is_told_no_way_to_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_DATABASE_URL", "postgresql://x/y")
    plan = Plan(
        ["a:app"], runners=2, environments={"runner-2": {"HOLDFAST_SLOTS": "1"}, "runner": {"X": "y"}}
    )
    monkeypatch.setenv("HOLDFAST_SECRET_TICKETS", "whsec_x")
    told = plan.environment_of("runner-2", {"HOLDFAST_AGENTS": "a:app"})
    assert "HOLDFAST_SECRET_TICKETS" not in told
    assert "HOLDFAST_DATABASE_URL" not in told
    assert (told["HOLDFAST_SLOTS"], told["X"], told["HOLDFAST_AGENTS"]) == ("1", "y", "a:app")
    assert plan.environment_of("invoker", {})["HOLDFAST_DATABASE_URL"] == "postgresql://x/y"
    assert plan.names() == ["invoker", "checkpoint", "approval", "dispatcher", "runner", "runner-2"]


def test_a_role_is_added_to_a_url_of_any_form() -> None:
    url = acting_as("postgresql://postgres@/holdfast?host=/tmp/a b&port=5432", "holdfast_invoker")
    assert url == "postgresql://postgres@/holdfast?host=/tmp/a%20b&port=5432&role=holdfast_invoker"
    assert acting_as("postgresql://u:p@h:1/d", "r") == "postgresql://u:p@h:1/d?role=r"


def test_a_role_that_logs_in_itself_brings_nobody_elses_password() -> None:
    own = logging_in_as("postgresql://postgres:secret@/holdfast?host=/tmp/a", "holdfast_invoker")
    assert own == "postgresql://holdfast_invoker@/holdfast?host=/tmp/a"


def test_a_running_suite_is_found_from_the_folders_below(tmp_path: Path) -> None:
    path = write_record(tmp_path / FOLDER, {"grpc": "127.0.0.1:1"})
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    record = find_record(deep)
    assert record is not None
    assert record["grpc"] == "127.0.0.1:1"
    assert path.stat().st_mode & 0o777 == 0o600
    remove_record(path)
    assert find_record(deep) is None


def test_the_record_of_a_killed_suite_is_not_believed(tmp_path: Path) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "dev.json").write_text(json.dumps({"grpc": "x", "pid": int(dead.stdout)}))
    assert find_record(tmp_path) is None
    remove_record(folder / "dev.json")
    assert (folder / "dev.json").exists()


def test_agents_are_watched_in_their_package_or_beside_their_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lone.py").touch()
    (tmp_path / "pack" / "inner").mkdir(parents=True)
    (tmp_path / "pack" / "inner" / "agents.py").touch()
    monkeypatch.chdir(tmp_path)
    here = Path(os.path.realpath(tmp_path))
    assert agent_folders(["lone:app", "pack.inner.agents:app"]) == [
        CodeFolder(here, is_package=False),
        CodeFolder(here / "pack" / "inner", is_package=True),
    ]
    assert is_importable("lone:app")
    assert not is_importable("nowhere:app")


def test_a_log_line_is_readable_and_what_is_none_stays_as_it_is() -> None:
    line = json.dumps(
        {
            "time": "2026-01-02T03:04:05.678+00:00",
            "level": "error",
            "event": "broken",
            "run_id": "r",
            "stack": "a\nb",
        }
    )
    shown = readable("runner-2", line)
    assert "03:04:05.678" in shown
    assert "run_id=r" in shown
    assert shown.count("runner-2") == 3
    assert readable("runner", "plain text").endswith("plain text")
    assert readable("runner", '{"no": "event"}').endswith('{"no": "event"}')
