"""What a runner says is checked as any client's words are: each malformed field is named."""

from collections.abc import Iterable
from uuid import UUID

from holdfast.invoker.envelope import Violations
from holdfast.invoker.runner_session import RunnerSession
from holdfast.kit.errors import StreamProtocol
from holdfast.ledger.domain.batch import light_intent
from holdfast.ledger.values import InputPolicy, LeaseRef, ServedIntent
from holdfast.v1 import work_service_pb2

MAX_INTENTS = 1_000
MAX_VERSIONS = 100
MAX_CRITICAL = 16
MAX_CONCURRENT = 1_000_000


def read_hello(first: work_service_pb2.LeaseRequest | None) -> RunnerSession:
    """Return the session of a runner that introduces itself. Raises StreamProtocol, InvalidField."""
    if first is None or first.WhichOneof("message") != "hello":
        raise StreamProtocol("the first message of a lease stream must be hello")
    hello = first.hello
    wrong = Violations("hello.")
    session_id = wrong.run_id("runner_id", hello.runner_id)
    wrong.text("address", hello.address)
    if hello.attach_token:
        wrong.text("attach_token", hello.attach_token)
    if not 1 <= len(hello.intents) <= MAX_INTENTS:
        wrong.add("intents", f"must be 1 to {MAX_INTENTS:,}")
    for place, served in enumerate(hello.intents[:MAX_INTENTS]):
        _check(served, f"intents[{place}].", wrong)
    wrong.settle()
    assert session_id is not None  # settle() raised otherwise
    intents = tuple(
        ServedIntent(
            name,
            s.agent_version,
            tuple(s.compatible_versions),
            s.max_concurrent,
            InputPolicy(s.on_input or InputPolicy.ENQUEUE),
            tuple(dict.fromkeys(s.critical_destinations)),
        )
        for s in hello.intents
        for name in ((s.intent, light_intent(s.intent)) if s.light_items else (s.intent,))
    )
    return RunnerSession(session_id, hello.address, intents, hello.attach_token)


def read_run_ids(field: str, run_ids: Iterable[str]) -> list[UUID]:
    """Return run ids that a runner names. Raises InvalidField."""
    wrong = Violations()
    parsed = [wrong.run_id(field, run_id) for run_id in run_ids]
    wrong.settle()
    return [run_id for run_id in parsed if run_id is not None]


def read_leases(hand_back: work_service_pb2.RunnerHandBack) -> list[LeaseRef]:
    """Return the leases that a runner hands back. Raises InvalidField."""
    run_ids = read_run_ids("hand_back.leases.run_id", (each.run_id for each in hand_back.leases))
    return [LeaseRef(run_id, each.epoch) for run_id, each in zip(run_ids, hand_back.leases, strict=True)]


def _check(served: work_service_pb2.ServedIntent, at: str, wrong: Violations) -> None:
    wrong.intent(f"{at}intent", served.intent)
    if not served.agent_version:
        wrong.add(f"{at}agent_version", "must be given")
    wrong.text(f"{at}agent_version", served.agent_version)
    if len(served.compatible_versions) > MAX_VERSIONS:
        wrong.add(f"{at}compatible_versions", f"must be at most {MAX_VERSIONS}")
    for version in served.compatible_versions[:MAX_VERSIONS]:
        wrong.text(f"{at}compatible_versions", version)
    if len(served.critical_destinations) > MAX_CRITICAL:
        wrong.add(f"{at}critical_destinations", f"must be at most {MAX_CRITICAL}")
    for name in served.critical_destinations[:MAX_CRITICAL]:
        if not name:
            wrong.add(f"{at}critical_destinations", "must not hold an empty name")
        wrong.text(f"{at}critical_destinations", name)
    if not 0 <= served.max_concurrent <= MAX_CONCURRENT:
        wrong.add(f"{at}max_concurrent", f"must be between 0 and {MAX_CONCURRENT:,}")
    if served.on_input not in work_service_pb2.InputPolicy.values():
        wrong.add(f"{at}on_input", "is not one of its values")
