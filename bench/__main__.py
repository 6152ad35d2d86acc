"""`python -m bench`: ask us and the peers the same questions, write the answers down, show them."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from bench.cases import CASES, Case, Result, Session
from bench.contender import OURS, Contender, Unavailable
from bench.environment import peer_names, prepare
from bench.report import entry, machine, table, write


def read_arguments() -> argparse.Namespace:
    """Read what to measure and where to write it."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--case", action="append", choices=[case.name for case in CASES], help="one case; repeatable"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/latest.json")
    parser.add_argument("--peer", action="append", choices=peer_names(), help="beside this peer; repeatable")
    parser.add_argument("--no-peers", action="store_true", help="measure ours alone")
    parser.add_argument("--only-peers", action="store_true", help="measure the peers alone")
    return parser.parse_args()


def contenders(arguments: argparse.Namespace) -> tuple[list[Contender], dict[str, Result]]:
    """Gather who takes part, and for each peer that cannot be had here the reason."""
    present = [] if arguments.only_peers else [OURS]
    absent: dict[str, Result] = {}
    for name in () if arguments.no_peers else arguments.peer or peer_names():
        try:
            present.append(prepare(name))
        except Unavailable as unavailable:
            say(f"{name}: {unavailable}")
            absent[name] = Result(None, {"reason": str(unavailable)})
    return present, absent


def say(sentence: str) -> None:
    """Tell the person who waits what is going on."""
    print(sentence, file=sys.stderr, flush=True)


async def main() -> int:
    """Measure the cases asked for; the file is written anew after each, so that an interruption loses one."""
    arguments = read_arguments()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    about = machine()
    present, absent = contenders(arguments)
    session = Session(present, say)
    measured: list[tuple[Case, dict[str, Result]]] = []
    for case in CASES:
        if arguments.case and case.name not in arguments.case:
            continue
        say(f"== {case.name}")
        measured.append((case, await case.measure(session) | absent))
        write(arguments.out, about, [entry(case, results) for case, results in measured])
    print(table(measured))
    print(f"written to {arguments.out}")
    wanted = (
        [] if arguments.only_peers else [case for case, results in measured if results["ours"].value is None]
    )
    return 1 if wanted else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
