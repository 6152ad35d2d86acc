"""What is asked: each case is a name, a unit, and a way from the contenders' answers to one number each.

Rounds are interleaved (ours, peer, peer, ours, …) so that a change in the machine's mood meets all alike; the
first round tries every variant and concurrency a contender offers, the others repeat its best.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.contender import OURS, Answer, Contender, Unavailable
from bench.measure import percentile

ROUNDS = 3
RUNS = 2000
SINGLE_RUNS = 200
ITEMS = 10_000
CHURN = 200_000

Question = tuple[str, ...]
Score = Callable[[Answer], float]


@dataclass(frozen=True)
class Result:
    """One contender's number in one case, and what stands behind it; no number has a reason."""

    value: float | None
    detail: Mapping[str, object]


@dataclass
class Session:
    """The contenders of one benchmark, and the answers they have given so far."""

    contenders: Sequence[Contender]
    say: Callable[[str], None]
    _answers: dict[tuple[str, ...], Mapping[str, list[Answer] | Unavailable]] = field(default_factory=dict)

    async def ask_all(
        self,
        key: tuple[str, ...],
        ways: Callable[[Contender], list[Question]],
        score: Score,
        *,
        rounds: int = ROUNDS,
    ) -> Mapping[str, list[Answer] | Unavailable]:
        """Ask every contender in rounds, once per key: cases that share a measurement share its answers.

        The higher the score, the better the way; only the best way is asked again.
        """
        if key not in self._answers:
            best: dict[str, list[Answer] | Unavailable] = {}
            for contender in self.contenders:
                best[contender.name] = await self._first_round(contender, ways(contender), score)
            for _ in range(1, rounds):
                for contender in self.contenders:
                    await self._repeat(contender, best)
            self._answers[key] = best
        return self._answers[key]

    async def ask_once(self, *question: str) -> Mapping[str, list[Answer] | Unavailable]:
        """Ask every contender one question in every round, with nothing to choose from."""
        return await self.ask_all(question, lambda _: [question], lambda _: 0.0)

    async def ask_ours(
        self, *question: str, rounds: int = ROUNDS
    ) -> Mapping[str, list[Answer] | Unavailable]:
        """Ask us alone, once a round, what no peer has."""
        ways: dict[str, list[Question]] = {OURS.name: [question]}
        return await self.ask_all(
            question, lambda contender: ways.get(contender.name, []), lambda _: 0.0, rounds=rounds
        )

    async def _first_round(
        self, contender: Contender, ways: list[Question], score: Score
    ) -> list[Answer] | Unavailable:
        answers: list[Answer] = []
        reason = Unavailable("it was asked nothing: this is measured of ours alone")
        for way in ways:
            self.say(f"{contender.name}: {' '.join(way)}")
            try:
                answers.append(await contender.ask(*way) | {"asked": way})
            except Unavailable as unavailable:
                self.say(f"{contender.name}: {unavailable}")
                reason = unavailable
        return [max(answers, key=score)] if answers else reason

    async def _repeat(self, contender: Contender, best: dict[str, list[Answer] | Unavailable]) -> None:
        answers = best[contender.name]
        if isinstance(answers, Unavailable):
            return
        way: Question = answers[0]["asked"]
        self.say(f"{contender.name}: {' '.join(way)}")
        try:
            answers.append(await contender.ask(*way) | {"asked": way})
        except Unavailable as unavailable:
            # Failing now and then is no way to leave out a bad round.
            best[contender.name] = Unavailable(f"failed in one of {ROUNDS} rounds: {unavailable}")


@dataclass(frozen=True)
class Case:
    """A case by name: `measure` gives each contender's result."""

    name: str
    unit: str
    measure: Callable[[Session], Awaitable[dict[str, Result]]]


def results(
    answers: Mapping[str, list[Answer] | Unavailable], number: Callable[[Answer], float | None]
) -> dict[str, Result]:
    """Reduce each contender's rounds to the median of a number, with the round it comes from as detail."""
    reduced: dict[str, Result] = {}
    for name, given in answers.items():
        if isinstance(given, Unavailable):
            reduced[name] = Result(None, {"reason": str(given)})
            continue
        rounds = [number(answer) for answer in given]
        numbers = [value for value in rounds if value is not None]
        if not numbers:
            reduced[name] = Result(None, {"reason": "this machine does not tell"})
            continue
        facts = {key: value for key, value in given[0].items() if key not in ("latencies_ms", "asked")}
        detail = {"asked": " ".join(given[0]["asked"]), "rounds": numbers, "first_round": facts}
        reduced[name] = Result(round(median(numbers), 3), detail)
    return reduced


def _ways(*question: str, concurrent: bool) -> Callable[[Contender], list[Question]]:
    def offered(contender: Contender) -> list[Question]:
        variants = [question + (("--variant", variant) if variant else ()) for variant in contender.variants]
        if not concurrent:
            return variants
        return [(*way, "--concurrency", str(number)) for way in variants for number in contender.concurrency]

    return offered


def throughput(workload: str, fact: str) -> Callable[[Session], Awaitable[dict[str, Result]]]:
    """Measure many runs at once: `fact` is the number that counts, throughput decides what is best."""

    async def measure(session: Session) -> dict[str, Result]:
        ways = _ways("--workload", workload, "--runs", str(RUNS), concurrent=True)
        answers = await session.ask_all(
            ("throughput", workload), ways, lambda answer: float(answer["throughput"])
        )
        return results(answers, lambda answer: answer[fact])

    return measure


def latency(workload: str, share: float, *extra: str) -> Callable[[Session], Awaitable[dict[str, Result]]]:
    """Measure single runs, one after another; the p50 decides what is best."""

    async def measure(session: Session) -> dict[str, Result]:
        question = ("--workload", workload, "--latency", "--runs", str(SINGLE_RUNS), *extra)
        ways = _ways(*question, concurrent=False)
        answers = await session.ask_all(
            question, ways, lambda answer: -percentile(answer["latencies_ms"], 0.5)
        )
        return results(answers, lambda answer: round(percentile(answer["latencies_ms"], share), 3))

    return measure


def single(question: str, fact: str) -> Callable[[Session], Awaitable[dict[str, Result]]]:
    """Measure what is one number of one answer."""

    async def measure(session: Session) -> dict[str, Result]:
        return results(await session.ask_once(question), lambda answer: answer[fact])

    return measure


def waiting(share: float, *question: str) -> Callable[[Session], Awaitable[dict[str, Result]]]:
    """Measure how long people wait for words; ours alone."""

    async def measure(session: Session) -> dict[str, Result]:
        answers = await session.ask_ours(*question)
        return results(answers, lambda answer: round(percentile(answer["latencies_ms"], share), 3))

    return measure


def alone(
    fact: str, *question: str, rounds: int = ROUNDS
) -> Callable[[Session], Awaitable[dict[str, Result]]]:
    """Measure what is one number of one answer; ours alone."""

    async def measure(session: Session) -> dict[str, Result]:
        return results(await session.ask_ours(*question, rounds=rounds), lambda answer: answer[fact])

    return measure


def events(fact: str) -> Callable[[Session], Awaitable[dict[str, Result]]]:
    """Measure events that become runs; how many came to their end decides what is best."""

    async def measure(session: Session) -> dict[str, Result]:
        answers = await session.ask_all(
            ("events",), _ways("--events", concurrent=True), lambda answer: float(answer["ended_per_s"])
        )
        return results(answers, lambda answer: answer[fact])

    return measure


_CHURN = ("--churn", "--runs", str(CHURN))
_FIRST_EVENT = ("--first-event", "--runs", str(SINGLE_RUNS))

CASES = (
    Case("w1_throughput", "runs/s", throughput("w1", "throughput")),
    Case("w2_throughput", "runs/s", throughput("w2", "throughput")),
    Case("w1_latency_p50_ms", "ms", latency("w1", 0.50)),
    Case("w1_latency_p99_ms", "ms", latency("w1", 0.99)),
    Case("w1_repeatable_latency_p50_ms", "ms", latency("w1", 0.50, "--repeatable")),
    Case("w1_cpu_ms_per_run", "ms", throughput("w1", "cpu_ms_per_run")),
    Case("recovery_s", "s", single("--recovery", "recovery_s")),
    Case("claim_depth_ratio_1e6_1e3", "ratio", single("--claim-depth", "claim_depth_ratio")),
    Case("churn", "ratio", alone("claim_ratio", *_CHURN, rounds=1)),
    Case("churn_pages", "ratio", alone("pages_ratio", *_CHURN, rounds=1)),
    Case("w4_first_event_p50_ms", "ms", waiting(0.50, *_FIRST_EVENT)),
    Case("w4_first_event_p99_ms", "ms", waiting(0.99, *_FIRST_EVENT)),
    Case("token_relay_p50_ms", "ms", waiting(0.50, "--token-relay", "--runs", str(SINGLE_RUNS))),
    Case("streams_500_token_gap_p99_ms", "ms", waiting(0.99, "--streams")),
    Case("cancel_to_model_closed_p99_ms", "ms", waiting(0.99, "--cancel", "--runs", "100")),
    Case("parked_100k_queries_per_minute", "1/min", alone("queries_per_minute", "--parked")),
    Case("wake_per_s", "runs/s", alone("wake_per_s", "--wake")),
    Case("resume_1000_steps_ms", "ms", waiting(0.50, "--resume", "--runs", "10")),
    Case("batch_apply_per_s", "items/s", alone("batch_apply_per_s", "--batch-apply")),
    Case("batch_run_items_per_s", "items/s", alone("items_per_s", "--batch-runs", "--runs", str(ITEMS))),
    Case("batch_light_items_per_s", "items/s", alone("items_per_s", "--batch-light", "--runs", str(ITEMS))),
    Case("idle_queries_per_minute_per_process", "1/min", alone("queries_per_minute_per_process", "--idle")),
    Case("light_tenant_wait_p99_ms", "ms", waiting(0.99, "--light", "--runs", "100")),
    Case("effects_per_s", "1/s", alone("effects_per_s", "--effects")),
    Case("event_to_start_p50_ms", "ms", waiting(0.50, "--event-to-start", "--runs", "100")),
    Case("events_per_s", "1/s", events("events_per_s")),
    Case("events_ended_per_s", "1/s", events("ended_per_s")),
    Case("overload_goodput_share", "ratio", alone("goodput_share", "--overload")),
    Case(
        "overload_thinking_goodput_share",
        "ratio",
        alone("goodput_share", "--overload", "--variant", "w2_thinking"),
    ),
    Case(
        "overload_heeding_goodput_share",
        "ratio",
        alone("goodput_share", "--overload", "--variant", "heeding"),
    ),
    Case("decision_to_continue_p50_ms", "ms", waiting(0.50, "--decision", "--runs", "50")),
    Case("console_runs_page_ms", "ms", waiting(0.50, "--console-runs", "--runs", "50")),
)
