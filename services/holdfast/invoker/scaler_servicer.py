"""Serves KEDA's `externalscaler.ExternalScaler`: runners are scaled by the work there is for them."""

import math
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from holdfast.invoker.parts import Parts
from holdfast.invoker.scaler_trigger import Trigger, read_trigger
from holdfast.keda import externalscaler_pb2 as pb
from holdfast.keda import externalscaler_pb2_grpc
from holdfast.kit.errors import InvalidField, Violation

Context = grpc.aio.ServicerContext[Any, Any]

LOOK_S: Final = 10.0
"""How often a stream looks by itself: for the end of work, and for work it was not told of."""


class ScalerServicer(externalscaler_pb2_grpc.ExternalScalerServicer):
    """What KEDA asks; a replica is needed while runs wait that it could take, and while any are held."""

    def __init__(self, parts: Parts) -> None:
        self._snapshot = parts.scaling

    async def IsActive(self, request: pb.ScaledObjectRef, _context: Context) -> pb.IsActiveResponse:  # noqa: N802 - KEDA's name
        """Say whether at least one replica is needed."""
        return pb.IsActiveResponse(result=await self._active(read_trigger(request.scalerMetadata)))

    async def StreamIsActive(  # noqa: N802
        self,
        request: pb.ScaledObjectRef,
        _context: Context,
    ) -> AsyncIterator[pb.IsActiveResponse]:
        """Say it now and whenever it changes: from no to yes at once, the way back within seconds."""
        trigger = read_trigger(request.scalerMetadata)
        told: bool | None = None
        since = float("-inf")
        with self._snapshot.watching(trigger.question) as watch:
            while not watch.closed:
                active = await self._active(trigger, since=since)
                if active != told:
                    told = active
                    yield pb.IsActiveResponse(result=active)
                since = float("-inf")
                if not await watch.rest(LOOK_S, until_work=not told):
                    continue
                if trigger.question.priority:
                    since = time.monotonic()  # what came may be below it
                    continue
                told = True
                yield pb.IsActiveResponse(result=True)
                await watch.rest(LOOK_S, until_work=False)

    async def GetMetricSpec(  # noqa: N802
        self,
        request: pb.ScaledObjectRef,
        _context: Context,
    ) -> pb.GetMetricSpecResponse:
        """Name the trigger's metric and its target."""
        trigger = read_trigger(request.scalerMetadata)
        spec = pb.MetricSpec(
            metricName=trigger.name, targetSize=math.ceil(trigger.target), targetSizeFloat=trigger.target
        )
        return pb.GetMetricSpecResponse(metricSpecs=[spec])

    async def GetMetrics(self, request: pb.GetMetricsRequest, _context: Context) -> pb.GetMetricsResponse:  # noqa: N802
        """Say how much there is of the trigger's metric."""
        trigger = read_trigger(request.scaledObjectRef.scalerMetadata)
        if request.metricName not in ("", trigger.name):
            wrong = Violation("metric_name", f"must be {trigger.name}, which the trigger's metadata asks for")
            raise InvalidField("The trigger has no such metric.", violations=[wrong])
        value = trigger.value(await self._snapshot.backlog(trigger.question))
        return pb.GetMetricsResponse(
            metricValues=[
                pb.MetricValue(metricName=trigger.name, metricValue=math.ceil(value), metricValueFloat=value)
            ]
        )

    async def _active(self, trigger: Trigger, *, since: float = float("-inf")) -> bool:
        return (await self._snapshot.backlog(trigger.question, since=since)).total > 0
