"""The layers of every server of ours, in the one order that is right: outermost first."""

from collections.abc import Collection, Sequence
from typing import Final

import grpc

from holdfast.kit.auth.access import Access
from holdfast.kit.rpc.audit import AuditLayer
from holdfast.kit.rpc.crowd import CrowdLayer
from holdfast.kit.rpc.deadline import DeadlineLayer
from holdfast.kit.rpc.faults import FaultLayer, Translate
from holdfast.kit.rpc.identity import IdentityLayer
from holdfast.kit.rpc.request_log import Ended, RequestLogLayer
from holdfast.kit.rpc.shedding import Refusals, Shed, ShedDoor, ShedLayer
from holdfast.kit.rpc.tracing import server_layers

OPEN: Final = Access()
"""Whoever reaches the server may call, as whom they say."""


def server_interceptors(
    *,
    translate: Translate | None = None,
    hot: Collection[str] = (),
    access: Access = OPEN,
    ended: Ended | None = None,
    shed: Shed | None = None,
    more: Sequence[grpc.aio.ServerInterceptor] = (),
) -> list[grpc.aio.ServerInterceptor]:
    """Return door → request log → errors → tracing → identity → refusals → crowd → audit → deadline → `more`.

    `translate` makes faults of exceptions the kit does not know (a service with a ledger passes
    `kit.db.as_fault`); `hot` names the methods whose success is logged at debug only; `ended` hears of
    every call, `shed` of those refused at the door.

    The outermost keeps what the others make of a method, so each in `more` is asked once per method too.
    """
    refusals = Refusals(ended, shed)
    return [
        ShedDoor(refusals),
        RequestLogLayer(hot, ended),
        FaultLayer(translate),
        *server_layers(),
        IdentityLayer(access),
        ShedLayer(refusals),
        CrowdLayer(access.bounds),
        AuditLayer(access.audit),
        DeadlineLayer(),
        *more,
    ]
