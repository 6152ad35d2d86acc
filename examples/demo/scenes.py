"""What the demo shows, each part checked: `Disproved` if anything is not as it says."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from examples.demo.proof import Disproved, prove
from examples.demo.screen import Screen
from examples.demo.story import Story
from examples.demo.world import World
from holdfast.client import Budget, BudgetDimension, EffectStatus, Invocation, Run, RunStatus, Shape
from holdfast.dev import ServiceProcess

INTENT: Final = "support.triage"
COPIES: Final = 5
PIECES_BEFORE_THE_KILL: Final = 5
DELIVERY_PATIENCE_S: Final = 15.0
RUN_PATIENCE_S: Final = 90.0  # a real model may take its time

TICKETS: Final[Mapping[str, dict[str, Any]]] = {
    "stream": {
        "id": "T-1001",
        "customer_id": "cus_001",
        "subject": "Signing in fails after a password reset",
        "body": "Since I changed my password this morning the app asks me to sign in again and again.",
    },
    "duplicate": {
        "id": "T-1002",
        "customer_id": "cus_002",
        "subject": "An export stops at 10,000 rows",
        "body": "We need all 42,000 orders of last year for our auditors by Friday.",
    },
    "crash": {
        "id": "T-1003",
        "customer_id": "cus_003",
        "subject": "An invoice shows the wrong VAT number",
        "body": "Our VAT number has changed in May, and the invoice of June still has the old one.",
    },
}


@dataclass
class Scenes:
    """The parts in their order; `answers` is what each run returned, by its id."""

    world: World
    screen: Screen
    answers: dict[str, str] = field(default_factory=dict)

    async def stream(self) -> None:
        """Follow a run live."""
        self.screen.scene("A run, streamed as it happens")
        story = Story(self.screen)
        async with self.world.client.converse(INTENT, TICKETS["stream"]) as talk:
            async for _ in story.follow(talk):
                pass
            assert talk.run is not None  # the first update was Started
        run = self._answered(await self.world.client.get_run(talk.run.run_id))
        prove(
            "the stream, put together, against the recorded answer", story.said_in("draft"), self.answers[run]
        )
        prove("tries of each step", set(story.tries().values()), {1})
        self.screen.proved(f"{story.count('token')} pieces came live; together they are the recorded answer")

    async def duplicate(self) -> None:
        """Publish the same event several times at once."""
        self.screen.scene(f"The same agent as an event worker; the event arrives {COPIES} times")
        ticket = TICKETS["duplicate"]
        event = Invocation(
            INTENT,
            ticket,
            idempotency_key=f"ticket:{ticket['id']}",
            shape=Shape.WORKER,
            labels={"ticket": ticket["id"]},
        )
        before = self.world.tool_calls()
        answers = await asyncio.gather(*(self.world.client.publish([event]) for _ in range(COPIES)))
        published = [answer for (answer,) in answers]
        for refusal in (each.refusal for each in published if each.refusal is not None):
            raise refusal
        run_ids = {each.run_id for each in published}
        prove("runs of one event", len(run_ids), 1)
        prove("copies recognised as such", sum(each.duplicate for each in published), COPIES - 1)
        self.screen.event("published", f"{COPIES} times at once; nobody waits for the run")
        (run_id,) = run_ids
        run = await self.world.client.await_run(run_id, patience=RUN_PATIENCE_S)
        self._answered(run)
        listed = [each async for each in self.world.client.list_runs(labels={"ticket": ticket["id"]})]
        prove("runs in the list", [each.run_id for each in listed], [run_id])
        self._each_tool_once(before)
        self.screen.event("ended", f"{run.status.name} after {run.usage.steps} steps")
        self.screen.proved(f"{COPIES} events, 1 run, {COPIES - 1} answered with its id")

    async def crash(self) -> None:
        """Kill a runner in the middle of its run."""
        self.screen.scene("The runner is killed (SIGKILL) while the model speaks")
        world, story = self.world, Story(self.screen)
        before = world.tool_calls()
        earlier = {runner.name: world.tool_calls(runner) for runner in world.suite.runners}
        handle = await world.client.invoke(INTENT, TICKETS["crash"])
        killed_at = resumed_at = 0.0
        pieces = 0
        async with handle.watch() as updates:
            async for event in story.follow(updates):
                pieces += event.kind == "token" and event.step == "draft"
                if not killed_at and pieces == PIECES_BEFORE_THE_KILL:
                    victim = self._busy(earlier)
                    await victim.kill()
                    killed_at = time.monotonic()
                    self.screen.event("killed", f"{victim.name}, process {victim.pid}, without warning")
                elif killed_at and not resumed_at and event.kind == "started":
                    resumed_at = time.monotonic()
        run_id = self._answered(await handle.ended(patience=RUN_PATIENCE_S))
        if not killed_at:
            raise Disproved("The model had answered before the runner could be killed in the middle.")
        self._resumed(story, run_id, before)
        self.screen.proved(f"resumed on the other runner after {resumed_at - killed_at:.1f} s, on attempt 2")
        self.screen.proved(
            "the plan and both tools were executed once; only the answer in flight was repeated"
        )
        self.screen.proved("the watcher's transcript is true: what died was rewound, then told again")

    async def effects(self) -> None:
        """Count what the outside world has received."""
        self.screen.scene("What the outside world received")
        for run_id, answer in self.answers.items():
            delivered = await self._delivered(run_id)
            prove("deliveries of the run's effect", delivered["count"], 1)
            prove("its signature", delivered["verified"], True)
            prove("the reply it carries", delivered["body"]["reply"], answer)
            self.screen.event("received", f"{delivered['body']['ticket']} once, signature verified")
        counts = self.world.receiver.statistics()
        prove("deliveries in all", counts["deliveries"], len(self.answers))
        prove("deliveries that took effect", counts["applied"], len(self.answers))
        self.screen.proved(
            f"{len(self.answers)} runs, {counts['deliveries']} deliveries: once each, the crashed one too"
        )

    async def budget(self) -> None:
        """Let a run reach a limit."""
        self.screen.scene("A run may take 2 steps, and needs 4")
        ticket = {**TICKETS["stream"], "id": "T-1004"}
        handle = await self.world.client.invoke(INTENT, ticket, budget=Budget(max_steps=2))
        run = await handle.ended(patience=RUN_PATIENCE_S)
        assert run.outcome is not None  # it has ended
        prove("how it ended", run.status, RunStatus.PARTIAL)
        prove("the limit it names", run.outcome.exhausted, BudgetDimension.STEPS)
        prove("steps taken", run.usage.steps, 2)
        prove(
            "effects of it",
            [each async for each in self.world.client.outbox.list_effects(run_id=run.run_id)],
            [],
        )
        self.screen.event("result", str(run.outcome.result))
        self.screen.proved("PARTIAL, naming STEPS: two steps were taken, no third began, nothing was sent")

    def _answered(self, run: Run) -> str:
        """Keep what a run has returned, and return its id."""
        failure = run.outcome.failure if run.outcome is not None else None
        if run.status is not RunStatus.SUCCEEDED or run.outcome is None:
            raise Disproved(f"Run {run.run_id} ended {run.status.name}: {failure.message if failure else ''}")
        self.answers[run.run_id] = run.outcome.result["answer"]
        return run.run_id

    def _busy(self, earlier: Mapping[str, Mapping[str, int]]) -> ServiceProcess:
        """Return the runner that has executed tools since."""
        busy = [
            runner
            for runner in self.world.suite.runners
            if self.world.tool_calls(runner) != earlier[runner.name]
        ]
        prove("runners that work on the run", len(busy), 1)
        return busy[0]

    def _resumed(self, story: Story, run_id: str, before: Mapping[str, int]) -> None:
        """Prove that nothing recorded was executed again."""
        resumed = [event for event in story.events if event.kind == "started"][-1]
        prove("attempts", resumed.attempt, 2)
        prove("recorded steps replayed", resumed.data["replayed_steps"], 3)
        self._each_tool_once(before)
        prove("the answer told after the crash", story.said_in("draft"), self.answers[run_id])
        sequences = [event.sequence for event in story.events]
        prove("the transcript's numbers", sequences, list(range(1, len(sequences) + 1)))
        if self.world.model is not None:
            prove("requests the model got", self.world.model_requests(run_id), {"plan": 1, "draft": 2})

    def _each_tool_once(self, before: Mapping[str, int]) -> None:
        after = self.world.tool_calls()
        executed = {tool: after[tool] - before[tool] for tool in after}
        prove("executions of each tool", executed, dict.fromkeys(after, 1))

    async def _delivered(self, run_id: str) -> dict[str, Any]:
        """Wait for the run's one effect to be acknowledged, and return what the receiver has of it."""
        give_up = time.monotonic() + DELIVERY_PATIENCE_S
        while True:
            effects = [each async for each in self.world.client.outbox.list_effects(run_id=run_id)]
            prove("effects of the run", len(effects), 1)
            if effects[0].status is EffectStatus.DELIVERED:
                break
            if effects[0].status is EffectStatus.DEAD_LETTERED or time.monotonic() > give_up:
                raise Disproved(f"The effect of run {run_id} is {effects[0].status.name}, not DELIVERED.")
            await asyncio.sleep(0.05)
        (delivered,) = (
            each
            for each in self.world.receiver.received()
            if each["idempotency_key"] == effects[0].idempotency_key
        )
        return delivered
