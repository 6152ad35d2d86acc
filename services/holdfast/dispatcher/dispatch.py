"""Effects that are due are leased, sent, and settled, until the process is told to stop.

    due ──claim──▶ leased ──▶ waiting for its start ──▶ sending ──▶ settling ──▶ delivered | due | set aside
                                   └──(stopping | session lost)──▶ handed back

A crash between any two of these leaves leases behind; they are swept by another dispatcher when the session's
time is over, and what may have been sent is sent again with the same idempotency key.
"""

import asyncio
import contextlib
import random
import uuid
from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry

from holdfast.dispatcher.answer import CallResult, cut_off
from holdfast.dispatcher.delivery_trace import about, delivering
from holdfast.dispatcher.metrics import DispatcherMetrics
from holdfast.dispatcher.sender import Sender
from holdfast.dispatcher.session import Session
from holdfast.dispatcher.settling import Settling
from holdfast.kit import crash_point
from holdfast.kit.clock import Clock
from holdfast.kit.db import Database
from holdfast.kit.errors import Fault, SessionUnknown
from holdfast.kit.loops import Loop
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger.domain.delivery import Answer, BreakerVote, EffectStatus, decide
from holdfast.ledger.notice import EFFECT
from holdfast.ledger.outbox_claim import Delivery, claim
from holdfast.ledger.outbox_settle import Settlement
from holdfast.ledger.outbox_sweep import give_back, sweep
from holdfast.ledger.values import Failure

_log: Final = logger("dispatch")
_CONTENDED_S: Final = 0.02
_AT_A_TIME: Final = 32
UNASKED_SECONDS: Final = 30.0
"""After which it claims and sweeps though the look has found nothing to do."""

_NOT_SENT: Final = CallResult(Answer.NOT_SENT, BreakerVote.ABSTAINS)


class Dispatch:
    """The dispatching of one process: `run` until `drain`.

    `at_once` bounds what is leased by this process, and with it its memory.
    """

    def __init__(
        self,
        db: Database,
        sender: Sender,
        clock: Clock,
        *,
        at_once: int,
        poll_interval: float = 1.0,
        heartbeat_interval: float = 2.0,
        lease_ttl: float = 10.0,
        metrics: DispatcherMetrics | None = None,
    ) -> None:
        self._metrics = metrics or DispatcherMetrics(CollectorRegistry())
        self._db = db
        self._sender = sender
        self._clock = clock
        self._at_once = at_once
        self._session = Session(db, clock, lease_ttl)
        self._calls: set[asyncio.Task[None]] = set()
        self._starts: set[asyncio.Task[None]] = set()
        self._unstarted = 0
        self._metrics.watch(self._calls)
        self._draining = asyncio.Event()
        self._last_destination = 0
        self._alarm: asyncio.TimerHandle | None = None
        self.claiming = Loop("claim", self._claim_some, interval=UNASKED_SECONDS, max_backoff=1.0)
        self.sweeping = Loop("sweep", lambda: sweep(db), interval=UNASKED_SECONDS, max_backoff=1.0)
        self._settling = Settling(db, self._settled)
        self._leased: set[tuple[uuid.UUID, int]] = set()
        """What this process knows that it holds: effects, each under its epoch."""
        self._in_doubt = False
        """A claim had no answer, and may have leased more."""
        self._settle_loop = Loop("settle", self._settling.settle_some, interval=1.0, max_backoff=1.0)
        # One statement says that it lives and looks for what it was not told of.
        beat = min(poll_interval, heartbeat_interval)
        self._heart = Loop("look", self._look, interval=beat, max_backoff=1.0)
        self._claims: asyncio.Task[None] | None = None
        self._settles: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Look for due effects at once."""
        self.claiming.wake()

    async def run(self) -> None:
        """Dispatch until `drain` is done; cancelling leaves everything as a crash would."""
        await self._session.open()
        async with self._db.listen({EFFECT: lambda _: self.wake()}), asyncio.TaskGroup() as loops:
            self._claims = loops.create_task(self.claiming.run())
            self._settles = loops.create_task(self._settle_loop.run())
            loops.create_task(self.sweeping.run())
            loops.create_task(self._heart.run())

    async def drain(self, grace: float) -> None:
        """Take nothing more, let calls under way end for `grace` seconds, hand back the rest. Repeatable.

        If the ledger is away for as long again, what came of the last calls is lost; they are made again.
        """
        self._draining.set()
        self.claiming.stop()
        self.sweeping.stop()
        if self._claims is not None:
            await asyncio.wait([self._claims])
        if self._starts:
            await asyncio.wait(self._starts)
        if self._calls:
            await asyncio.wait(self._calls, timeout=grace)
        for call in self._calls:
            call.cancel()
        if self._calls:
            await asyncio.wait(self._calls)
        try:
            async with asyncio.timeout(max(grace, 1.0)):
                await self._settle_the_rest()
                await self._session.close()
        except (TimeoutError, Fault) as error:
            _log.warning("could not hand back", count=len(self._settling), error=type(error).__name__)
        self._heart.stop()

    async def _settle_the_rest(self) -> None:
        self._settle_loop.stop()
        if self._settles is not None:
            await asyncio.wait([self._settles])
        while await self._settling.settle_some():
            pass

    async def _look(self) -> int:
        """Say that this process lives, and wake the loops that have something to do."""
        seen = await self._session.look()
        if seen.waiting or not seen.alive:
            self.claiming.wake()
        if seen.expired or not seen.alive:
            self.sweeping.wake()
        return 0

    async def _claim_some(self) -> int:
        """Lease what is due, as much as there is room for, and start the calls."""
        room = self._at_once - self._unstarted - len(self._calls) - len(self._settling)
        if room <= 0:
            return 0  # what ends wakes this loop
        session_id = self._session.session_id
        before = self._last_destination
        if self._in_doubt:
            given_back = await give_back(self._db, session_id, self._leased)
            self._in_doubt = False
            _log.info("leases that were not heard of given back", count=given_back)
        try:
            claimed = await claim(self._db, session_id, wanted=room, after_destination=before)
        except SessionUnknown:
            await self._session.look()  # it opens a new one
            return 1
        except Exception:
            self._in_doubt = True
            raise
        self._last_destination = claimed.last_destination
        if claimed.deliveries:
            self._leased.update((each.effect_id, each.epoch) for each in claimed.deliveries)
            self._unstarted += len(claimed.deliveries)
            self._begin(asyncio.create_task(self._start(session_id, claimed.deliveries)), self._starts)
        if claimed.contended:
            self._wake_in(_CONTENDED_S * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load, keeps no secret
        elif claimed.wait_s is not None:
            self._wake_in(claimed.wait_s)
        # A walk that found nothing goes on behind where it ended, until it is back at the start.
        return len(claimed.deliveries) or int(claimed.last_destination > before)

    async def _start(self, session_id: uuid.UUID, deliveries: Sequence[Delivery]) -> None:
        """Start calls, a few at a time: meanwhile others end and are settled, and more is claimed."""
        for at in range(0, len(deliveries), _AT_A_TIME):
            some = deliveries[at : at + _AT_A_TIME]
            self._unstarted -= len(some)
            for delivery in some:
                self._begin(asyncio.create_task(self._deliver(session_id, delivery)), self._calls)
            await asyncio.sleep(0)

    def _settled(self, settlements: Sequence[Settlement]) -> None:
        self._leased.difference_update((each.effect_id, each.epoch) for each in settlements)
        self.claiming.wake()

    def _begin(self, task: asyncio.Task[None], among: set[asyncio.Task[None]]) -> None:
        among.add(task)
        task.add_done_callback(among.discard)

    def _wake_in(self, seconds: float) -> None:
        """Have the claim loop look again after some time, if nothing wakes it before."""
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        if self._alarm is not None and loop.time() < self._alarm.when() <= at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = loop.call_at(at, self.claiming.wake)

    async def _deliver(self, session_id: uuid.UUID, delivery: Delivery) -> None:
        """Make one call and put what came of it into the line."""
        began = self._clock.monotonic()
        result = _NOT_SENT
        try:
            if await self._may_start(session_id, delivery):
                result, began = cut_off(), self._clock.monotonic()
                crash_point.reach("dispatcher.before_send")
                result = await self._sent(delivery)
                crash_point.reach("dispatcher.after_send")
        except Exception as error:  # noqa: BLE001 - one call's fault must not take the lease with it
            _log.error("call failed", error=error, **about(delivery))
        finally:
            settlement = _settlement(delivery, result, self._clock.monotonic() - began)
            self._settling.add(session_id, settlement)
            self._settle_loop.wake()
            self._metrics.settled(delivery, settlement)
            _note(delivery, settlement)

    async def _sent(self, delivery: Delivery) -> CallResult:
        """Make the call, in a span that the destination's own goes on under."""
        with delivering(delivery) as (traced, told):
            result = await self._sender.send(traced)
            told(result)
            return result

    async def _may_start(self, session_id: uuid.UUID, delivery: Delivery) -> bool:
        """Wait for the call's time, and say whether it may be made still."""
        if delivery.starts_in_s > 0 and not self._draining.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delivery.starts_in_s):
                    await self._draining.wait()
        return not self._draining.is_set() and self._session.holds(session_id)


def _settlement(delivery: Delivery, result: CallResult, duration_s: float) -> Settlement:
    verdict = decide(
        result.answer,
        attempts=delivery.attempts,
        spent=delivery.spent,
        mode=delivery.destination.mode,
        policy=delivery.destination.retry,
        probe=delivery.probe,
        retry_after_s=result.retry_after_s,
        random=random.random,
    )
    failure = None
    if result.reason:
        failure = Failure(result.reason, result.message, step=delivery.step, attempts=verdict.attempts)
    return Settlement(
        effect_id=delivery.effect_id,
        epoch=delivery.epoch,
        destination_id=delivery.destination.destination_id,
        ordering_key=delivery.ordering_key,
        verdict=verdict,
        vote=result.vote,
        probe=delivery.probe,
        called=result.answer is not Answer.NOT_SENT,
        http_status=result.http_status,
        failure=failure,
        duration_s=duration_s,
        unsure=result.answer is Answer.UNCERTAIN or (delivery.unsure and not result.cleared),
    )


def _note(delivery: Delivery, settlement: Settlement) -> None:
    if settlement.verdict.status is EffectStatus.DEAD_LETTERED:
        _log.warning(
            "effect set aside",
            **about(delivery),
            tenant=delivery.destination.tenant,
            destination=delivery.destination.name,
            reason=settlement.failure.reason if settlement.failure else "",
            attempts=settlement.verdict.attempts,
        )
