"""The services an Invoker serves; those whose capability comes later say so."""

from holdfast.invoker.board import Board
from holdfast.invoker.caretaker import Caretaker
from holdfast.invoker.claimer import Claimer
from holdfast.invoker.door import Door
from holdfast.invoker.event_servicer import EventServicer
from holdfast.invoker.follow import Followers
from holdfast.invoker.intents import Intents
from holdfast.invoker.servicer import InvokerServicer
from holdfast.invoker.settings import InvokerSettings
from holdfast.invoker.stopping import Stopping
from holdfast.invoker.waiters import Waiters
from holdfast.invoker.work_servicer import WorkServicer
from holdfast.kit.db import Database
from holdfast.kit.rpc.later import later
from holdfast.kit.rpc.server import Registration
from holdfast.v1.batch_service_pb2_grpc import BatchServiceServicer, add_BatchServiceServicer_to_server
from holdfast.v1.event_service_pb2_grpc import add_EventServiceServicer_to_server
from holdfast.v1.invoker_service_pb2_grpc import add_InvokerServiceServicer_to_server
from holdfast.v1.schedule_service_pb2_grpc import (
    ScheduleServiceServicer,
    add_ScheduleServiceServicer_to_server,
)
from holdfast.v1.tenant_service_pb2_grpc import TenantServiceServicer, add_TenantServiceServicer_to_server
from holdfast.v1.work_service_pb2_grpc import add_WorkServiceServicer_to_server

HOT = ("/holdfast.v1.InvokerService/Invoke",)
"""Called thousands of times a second: their success is logged at debug only."""


def registrations(
    *,
    db: Database,
    board: Board,
    door: Door,
    waiters: Waiters,
    followers: Followers,
    stopping: Stopping,
    claimer: Claimer,
    caretaker: Caretaker,
    intents: Intents,
    settings: InvokerSettings,
) -> list[Registration]:
    """Return every service of the Invoker with its parts in place."""
    invoker = InvokerServicer(
        db=db,
        door=door,
        waiters=waiters,
        followers=followers,
        stopping=stopping,
        caretaker=caretaker,
        max_attempts=settings.max_attempts,
    )
    work = WorkServicer(
        db=db,
        board=board,
        claimer=claimer,
        waiters=waiters,
        caretaker=caretaker,
        intents=intents,
        settings=settings,
    )
    events = EventServicer(door, settings.max_attempts)
    batches = later(BatchServiceServicer, "Batches are not served by this release.")
    schedules = later(ScheduleServiceServicer, "Schedules are not served by this release.")
    tenants = later(TenantServiceServicer, "Tenants cannot be edited in this release: all have the defaults.")
    return [
        Registration(add_InvokerServiceServicer_to_server, invoker, "holdfast.v1.InvokerService"),
        Registration(add_EventServiceServicer_to_server, events, "holdfast.v1.EventService"),
        Registration(add_WorkServiceServicer_to_server, work, "holdfast.v1.WorkService"),
        Registration(add_BatchServiceServicer_to_server, batches, "holdfast.v1.BatchService"),
        Registration(add_ScheduleServiceServicer_to_server, schedules, "holdfast.v1.ScheduleService"),
        Registration(add_TenantServiceServicer_to_server, tenants, "holdfast.v1.TenantService"),
    ]
