"""KEDA can send no metadata: its token comes in the trigger, and is worth what scaling needs."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from holdfast.client.channel import open_channel
from holdfast.keda import externalscaler_pb2, externalscaler_pb2_grpc
from tests.access.guarded import guarding, token_of
from tests.invoker.stand import reason_of

keda: Any = externalscaler_pb2


async def refusal(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return reason_of(error)
    return ""


def ref(token: str | None = None) -> Any:
    carried = {} if token is None else {"tokenFromEnv": token}
    return keda.ScaledObjectRef(scalerMetadata={"intents": "hello", **carried})


async def told(stub: Any, token: str | None, *more: tuple[str, str]) -> set[str]:
    """Ask all four ways; return how they were refused, or an empty text."""
    answers = {
        await refusal(stub.IsActive(ref(token), metadata=more)),
        await refusal(stub.GetMetricSpec(ref(token), metadata=more)),
        await refusal(stub.GetMetrics(keda.GetMetricsRequest(scaledObjectRef=ref(token)), metadata=more)),
    }
    stream = stub.StreamIsActive(ref(token), metadata=more)
    answers.add(await refusal(stream.read()))
    stream.cancel()
    return answers


@pytest.mark.timeout(180)
async def test_only_a_token_of_the_platform_for_scaling_is_told_how_much_waits(
    database_url: str, tmp_path: Path
) -> None:
    scaler = await token_of(database_url, "scaler", tenant="*", user="keda")
    async with guarding(database_url, tmp_path) as guarded:
        channel = open_channel(guarded.addresses["invoker"])
        stub: Any = externalscaler_pb2_grpc.ExternalScalerStub(channel)
        assert await told(stub, scaler) == {""}
        assert await told(stub, None, ("authorization", f"Bearer {scaler}")) == {""}
        for wrong in (None, "", "hf_nobody", "nonsense"):
            assert await told(stub, wrong) == {"UNAUTHENTICATED"}, wrong
        for roles, tenant in ((["admin"], "acme"), (["scaler"], "acme"), (["runner"], "*"), (["read"], "*")):
            token = await token_of(database_url, *roles, tenant=tenant)
            assert await told(stub, token) == {"PERMISSION_DENIED"}, (roles, tenant)
        # A header decides where there is one: what is carried adds nothing to it.
        header = ("authorization", f"Bearer {await token_of(database_url, 'admin')}")
        assert await told(stub, scaler, header) == {"PERMISSION_DENIED"}
        await channel.close()
