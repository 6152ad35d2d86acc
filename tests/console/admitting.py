"""Who comes in, behind the real contract: everybody is root of the platform, and makes tokens."""

from contextlib import AbstractAsyncContextManager
from typing import Any

from holdfast.kit.errors import PermissionDenied
from holdfast.kit.rpc.server import Registration
from holdfast.v1 import access_service_pb2, access_service_pb2_grpc
from tests.console.reviewing import console_before

pb: Any = access_service_pb2


class Admitting(access_service_pb2_grpc.AccessServiceServicer):
    """Takes every credential for root; `lists` is whether it says what tokens there are."""

    def __init__(self) -> None:
        self.lists = True
        self.secret = "hf_once"

    async def WhoAmI(self, _request: Any, context: Any) -> Any:  # noqa: N802 - the contract's names
        named = dict(context.invocation_metadata()).get("holdfast-tenant", "default")
        return pb.WhoAmIResponse(
            tenant=named, user="root", roles=["admin"], platform=True, credential="token"
        )

    async def CreateToken(self, request: Any, _context: Any) -> Any:  # noqa: N802
        return pb.CreateTokenResponse(secret=self.secret, token={"token_id": "1", "name": request.name})

    async def ListTokens(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        if not self.lists:
            raise PermissionDenied("Not to you.")
        return pb.ListTokensResponse()


def console_for(access: Admitting, **told: Any) -> AbstractAsyncContextManager[str]:
    """Serve the console in this process, before this service alone."""
    add = access_service_pb2_grpc.add_AccessServiceServicer_to_server
    return console_before([Registration(add, access, "holdfast.v1.AccessService")], **told)
