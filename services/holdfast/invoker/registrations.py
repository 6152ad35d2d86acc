"""The services an Invoker serves."""

from holdfast.invoker.access_servicer import AccessServicer
from holdfast.invoker.batch_servicer import BatchServicer
from holdfast.invoker.event_servicer import EventServicer
from holdfast.invoker.parts import Parts
from holdfast.invoker.scaler_servicer import ScalerServicer
from holdfast.invoker.schedule_servicer import ScheduleServicer
from holdfast.invoker.servicer import InvokerServicer
from holdfast.invoker.tenant_servicer import TenantServicer
from holdfast.invoker.work_servicer import WorkServicer
from holdfast.keda.externalscaler_pb2_grpc import add_ExternalScalerServicer_to_server
from holdfast.kit.rpc.server import Registration
from holdfast.v1.access_service_pb2_grpc import add_AccessServiceServicer_to_server
from holdfast.v1.batch_service_pb2_grpc import add_BatchServiceServicer_to_server
from holdfast.v1.event_service_pb2_grpc import add_EventServiceServicer_to_server
from holdfast.v1.invoker_service_pb2_grpc import add_InvokerServiceServicer_to_server
from holdfast.v1.schedule_service_pb2_grpc import add_ScheduleServiceServicer_to_server
from holdfast.v1.tenant_service_pb2_grpc import add_TenantServiceServicer_to_server
from holdfast.v1.work_service_pb2_grpc import add_WorkServiceServicer_to_server

HOT = ("/holdfast.v1.InvokerService/Invoke",)
"""Called thousands of times a second: their success is logged at debug only."""


def registrations(parts: Parts) -> list[Registration]:
    """Return every service of the Invoker."""
    return [
        Registration(
            add_InvokerServiceServicer_to_server, InvokerServicer(parts), "holdfast.v1.InvokerService"
        ),
        Registration(add_EventServiceServicer_to_server, EventServicer(parts), "holdfast.v1.EventService"),
        Registration(add_WorkServiceServicer_to_server, WorkServicer(parts), "holdfast.v1.WorkService"),
        Registration(add_BatchServiceServicer_to_server, BatchServicer(parts), "holdfast.v1.BatchService"),
        Registration(
            add_ScheduleServiceServicer_to_server, ScheduleServicer(parts), "holdfast.v1.ScheduleService"
        ),
        Registration(add_TenantServiceServicer_to_server, TenantServicer(parts), "holdfast.v1.TenantService"),
        Registration(add_AccessServiceServicer_to_server, AccessServicer(parts), "holdfast.v1.AccessService"),
        Registration(
            add_ExternalScalerServicer_to_server, ScalerServicer(parts), "externalscaler.ExternalScaler"
        ),
    ]
