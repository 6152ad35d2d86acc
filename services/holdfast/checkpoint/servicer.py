"""CheckpointService: commits in, answers out; recorded steps for replays and for people."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from holdfast.checkpoint.fork import fork
from holdfast.checkpoint.group import Line
from holdfast.checkpoint.message import item_of, uuid_of
from holdfast.checkpoint.stream import CommitStream
from holdfast.checkpoint.view import (
    beginning_message,
    checkpoints,
    loaded,
    next_token,
    past_page,
    signal_message,
)
from holdfast.kit import crash_point
from holdfast.kit.auth.capability import Capabilities, demand_lease
from holdfast.kit.db import Database
from holdfast.kit.errors import Fault, InvalidField, ShuttingDown, StreamProtocol, Violation
from holdfast.kit.rpc.run import run_message
from holdfast.kit.rpc.tenant import current_tenant
from holdfast.ledger import fork as forking
from holdfast.ledger import history, mailbox_view
from holdfast.ledger.notice import READY, Notices
from holdfast.v1 import checkpoint_service_pb2 as pb
from holdfast.v1.checkpoint_pb2 import Commit
from holdfast.v1.checkpoint_service_pb2_grpc import CheckpointServiceServicer as Contract

MAX_COMMITS: Final = 256
DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1000


class CheckpointServicer(Contract):
    """Serves `holdfast.v1.CheckpointService` on the ledger, through two lines that store groups."""

    def __init__(
        self,
        db: Database,
        notices: Notices,
        *,
        progress: Line,
        moves: Line,
        acknowledgement_timeout: float,
        capabilities: Capabilities | None = None,
    ) -> None:
        self._db = db
        self._capabilities = capabilities
        self._notices = notices
        self._progress = progress
        self._moves = moves
        self._acknowledgement_timeout = acknowledgement_timeout
        self._draining = asyncio.Event()
        self._streams: set[CommitStream] = set()
        self._quiet = asyncio.Event()
        self._quiet.set()

    # A coroutine and not a generator: only so can a write be given up that the runner does not take.
    async def Commit(  # type: ignore[override]  # noqa: N802 - the contract's names
        self, request_iterator: AsyncIterator[pb.CommitRequest], context: Any
    ) -> None:
        """Store commits as they arrive and answer each."""
        if self._draining.is_set():
            raise _draining()
        stream = CommitStream()
        reader = asyncio.create_task(self._read(request_iterator, stream))
        self._streams.add(stream)
        self._quiet.clear()
        try:
            while answers := await stream.next_answers():
                async with asyncio.timeout(self._acknowledgement_timeout):
                    await context.write(pb.CommitResponse(answers=answers))
                crash_point.reach("checkpoint.after_ack")
                stream.sent(len(answers))
        except TimeoutError:
            raise StreamProtocol("The answers to commits are not read.") from None
        finally:
            reader.cancel()
            self._streams.discard(stream)
            if not self._streams:
                self._quiet.set()
        if reader.done() and not reader.cancelled():
            reader.result()  # a message that could not be read ends the stream with its reason
        if self._draining.is_set():
            raise _draining()

    async def drain(self) -> None:
        """Take no more commits, answer those that were taken, and end the streams."""
        self._draining.set()
        for stream in self._streams:
            stream.end()
        await self._quiet.wait()

    async def LoadRun(  # noqa: N802
        self, request: pb.LoadRunRequest, context: Any
    ) -> AsyncIterator[pb.LoadRunResponse]:
        """Send the recorded steps of a leased run and what waits in its mailbox, in pages."""
        del context
        wrong: list[Violation] = []
        run_id = uuid_of(request.run_id, "run_id", wrong)
        if request.epoch < 1:
            wrong.append(Violation("epoch", "must be at least 1"))
        if wrong:
            raise InvalidField("The request is malformed.", violations=wrong)
        demand_lease(run_id, request.epoch)
        pages = history.load_steps(self._db, run_id, request.epoch)
        mails = mailbox_view.load_mail(self._db, run_id, request.epoch)
        # At once, for nobody else changes what is recorded, and a run that was woken is waited for.
        mail: mailbox_view.MailPage | None
        beginning, page, mail = await asyncio.gather(
            history.beginning(self._db, run_id, request.epoch), anext(pages), anext(mails)
        )
        last = pb.LoadRunResponse(steps=[loaded(step) for step in page.steps])
        async for page in pages:
            yield last
            last = pb.LoadRunResponse(steps=[loaded(step) for step in page.steps])
        while mail is not None:
            if mail.signals:  # beside a page of steps they might be too much for one message
                yield last
                last = pb.LoadRunResponse(signals=[signal_message(signal) for signal in mail.signals])
            last.mailbox_sequence = mail.last
            mail = await anext(mails, None)
        last.MergeFrom(beginning_message(beginning))
        yield last

    async def ListCheckpoints(  # noqa: N802
        self, request: pb.ListCheckpointsRequest, context: Any
    ) -> pb.ListCheckpointsResponse:
        """List what a run of the caller's tenant has recorded."""
        del context
        wrong: list[Violation] = []
        run_id = uuid_of(request.run_id, "run_id", wrong)
        if not 0 <= request.page_size <= MAX_PAGE:
            wrong.append(Violation("page_size", f"must be 0 to {MAX_PAGE}"))
        after = _position(request.page_token, wrong)
        if wrong:
            raise InvalidField("The request is malformed.", violations=wrong)
        asked: dict[str, Any] = {
            "after_position": after,
            "limit": request.page_size or DEFAULT_PAGE,
        }
        tenant = current_tenant()
        if request.include_records:
            return past_page(request.run_id, await history.list_past(self._db, tenant, run_id, **asked))
        page = await history.list_steps(self._db, tenant, run_id, **asked)
        return pb.ListCheckpointsResponse(
            checkpoints=checkpoints(request.run_id, page.steps),
            next_page_token=next_token(page),
        )

    async def ForkRun(  # noqa: N802
        self, request: pb.ForkRunRequest, context: Any
    ) -> pb.ForkRunResponse:
        """Start a run of the caller's tenant from a checkpoint of another."""
        del context
        forked = await fork(self._db, current_tenant(), request)
        self._notices.send(READY, forked.pools)
        view = await forking.view(self._db, forked.run_id)
        return pb.ForkRunResponse(run=run_message(view), reattached=not forked.created)

    async def _read(self, requests: AsyncIterator[pb.CommitRequest], stream: CommitStream) -> None:
        """Take commits until the runner has no more or the process drains, and only while there is room."""
        try:
            async for request in requests:
                if self._draining.is_set():
                    return  # not taken: the runner sends it to another
                self._take(request, stream)
                await stream.room()
        finally:
            stream.end()

    def _take(self, request: pb.CommitRequest, stream: CommitStream) -> None:
        commits = request.commits
        too_many = len(commits) > MAX_COMMITS
        for commit in commits:
            try:
                if too_many:
                    raise _too_many()
                item = item_of(commit)
                if self._capabilities is not None:
                    self._capabilities.demand(commit.capability, item.run_id, item.epoch)
            except Fault as fault:
                _refuse(commit, stream, fault)
                continue
            size = item.size
            stream.opened(size)
            (self._progress if item.is_plain else self._moves).put(item, size, stream)


def _refuse(commit: Commit, stream: CommitStream, fault: Fault) -> None:
    stream.opened(0)
    stream.refuse(commit, fault)


def _draining() -> ShuttingDown:
    return ShuttingDown("This process is draining; open a stream to another.")


def _too_many() -> InvalidField:
    wrong = Violation("commits", f"must be at most {MAX_COMMITS}")
    return InvalidField("The message has too many commits.", violations=[wrong])


def _position(token: str, wrong: list[Violation]) -> int:
    if token and not (token.isascii() and token.isdigit() and len(token) < 10):  # noqa: PLR2004 - an int32
        wrong.append(Violation("page_token", "must be a `next_page_token`"))
        return 0
    return int(token or 0)
