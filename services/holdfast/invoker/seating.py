"""Seats for new runs: which connected runners could take them at once, their credit taken for that long."""

from collections.abc import Iterable, Sequence

from holdfast.invoker.board import Board, Reservation
from holdfast.ledger.admission import Placements, Server
from holdfast.ledger.values import Invocation, Leased, pool_of


def reserve(board: Board, invocations: Sequence[Invocation]) -> tuple[Placements, Reservation]:
    """Reserve credit of the runners that could take these runs at once.

    What does not start while a breaker is open goes through a claim, which looks at the breaker.
    """
    wanted = {(each.intent, each.agent_version) for each in invocations}
    able = {pool_of(*want): (want[0], board.serving(pool_of(*want))) for want in wanted}
    runners = dict.fromkeys(session for _, sessions in able.values() for session in sessions)
    reserved = board.reserve(runners, len(invocations), kept_too=True)
    servers = {
        pool: [
            Server(session.session_id, served.agent_version)
            for session in sessions
            if session in reserved.slots
            for served in session.intents
            if served.intent == intent and not (served.critical and pool == intent)
        ]
        for pool, (intent, sessions) in able.items()
    }
    kept = {session.session_id: n for session, n in reserved.kept.items()}
    credit = {s.session_id: slots - kept.get(s.session_id, 0) for s, slots in reserved.slots.items()}
    return Placements(servers=servers, credit=credit, kept=kept), reserved


class Seats:
    """The credit that one verb of the ledger may use, asked for in the middle of it.

    asked for ──fill──▶ spent or given back
        └────doubt──▶ withheld until the ledger has said what was leased
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._reserved: list[Reservation] = []

    def reserve(self, invocations: Sequence[Invocation]) -> Placements:
        """Reserve credit for these runs; a second time when the verb's transaction is repeated."""
        for undone in self._reserved:
            undone.give_back()
        placements, reserved = reserve(self._board, invocations)
        self._reserved = [reserved]
        return placements

    def fill(self, leases: Iterable[Leased]) -> None:
        """Push what was leased, and give back what was not used."""
        for reserved in self._reserved:
            for lease in leases:
                reserved.spend(lease)
            reserved.give_back()

    def doubt(self) -> None:
        """Withhold it all: the verb had no answer, and may have leased runs."""
        for reserved in self._reserved:
            reserved.doubt()
