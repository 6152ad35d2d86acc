"""Make the environments the peers run in: one each, on demand, never shared with ours."""

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from bench.contender import Contender, Unavailable

_BENCH = Path(__file__).parent
_ROOT = _BENCH.parent
_PEERS = _BENCH / "peers"
_ENVIRONMENTS = _BENCH / ".peers"


def peer_names() -> list[str]:
    """List the peers there are."""
    return sorted(declaration.parent.name for declaration in _PEERS.glob("*/peer.toml"))


def prepare(name: str) -> Contender:
    """Make the peer's environment if it is missing or outdated, and return the peer ready to be asked.

    Raises Unavailable with the installer's last words. Safe to repeat after any interruption.
    """
    folder, home = _PEERS / name, _ENVIRONMENTS / name
    declared = tomllib.loads((folder / "peer.toml").read_text())
    wanted = [folder / "requirements.txt", folder / "package.json"]
    contents = b"".join(path.read_bytes() for path in wanted if path.exists())
    fingerprint = hashlib.sha256(contents + sys.version.encode()).hexdigest()
    stamp = home / "installed"
    if not stamp.exists() or stamp.read_text() != fingerprint:
        _install(folder, home)
        stamp.write_text(fingerprint)
    return Contender(
        name=name,
        command=(str(home / "venv/bin/python"), "-m", f"bench.peers.{name}.run"),
        environment={"PYTHONPATH": str(_ROOT), "BENCH_HOME": str(home)},
        variants=tuple(declared["variants"]),
        concurrency=tuple(declared["concurrency"]),
        postgres=declared["postgres"],
    )


def _install(folder: Path, home: Path) -> None:
    print(f"making the environment of {folder.name} in {home.relative_to(_ROOT)}", file=sys.stderr)
    if home.exists():
        shutil.rmtree(home)
    home.mkdir(parents=True)
    _command(sys.executable, "-m", "venv", str(home / "venv"))
    pip = (str(home / "venv/bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet")
    _command(*pip, "install", "--requirement", str(folder / "requirements.txt"))
    if (folder / "package.json").exists():
        npm = shutil.which("npm")
        if npm is None:
            raise Unavailable(f"{folder.name} is installed with npm, and there is no npm here.")
        shutil.copy(folder / "package.json", home)
        # No scripts: the binary lies in an optional package of the machine's kind, nothing needs to run.
        options = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
        _command(npm, "install", *options, "--prefix", str(home))


def _command(*command: str) -> None:
    # A virtual environment we are in is not the peer's.
    environment = {
        key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")
    }
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        last = (ended.stdout + ended.stderr).strip().splitlines()[-3:]
        raise Unavailable(f"`{' '.join(command[:4])}` failed: {' '.join(last)}")
