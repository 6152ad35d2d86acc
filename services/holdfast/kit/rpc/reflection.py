"""A server tells what it serves, to clients that ask in v1 and to those that ask in v1alpha."""

from collections.abc import Iterable
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool

# Imported for the pool alone: reflection then resolves the details of our statuses.
from google.rpc import error_details_pb2 as _error_details_pb2  # noqa: F401
from grpc_reflection.v1alpha import reflection, reflection_pb2

V1: Final = "grpc.reflection.v1.ServerReflection"
V1ALPHA: Final = "grpc.reflection.v1alpha.ServerReflection"
_V1_FILE: Final = "grpc/reflection/v1/reflection.proto"


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Serve reflection over `services` and itself; v1 has v1alpha's messages under another name."""
    _describe_v1()
    servicer = reflection.aio.ReflectionServicer([*services, V1, V1ALPHA], pool=_Pool())
    for name in (V1, V1ALPHA):
        info: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        handler = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": info})
        server.add_generic_rpc_handlers((handler,))


class _Pool:
    """The descriptors of this process, in which a method, too, is found in the file of its service."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 - protobuf's word
        """Return the file that says what a symbol is. Raises `KeyError`."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            return self._pool.FindServiceByName(service).methods_by_name[method].containing_service.file


def _describe_v1() -> None:
    """Put a description of the v1 service into the pool, so that it can be resolved like any other."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(_V1_FILE)
    except KeyError:
        described = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(described)
        described.name = _V1_FILE
        described.package = V1.rpartition(".")[0]
        for message in described.message_type:
            for field in message.field:
                if field.type_name:
                    field.type_name = _renamed(field.type_name)
        for method in described.service[0].method:
            method.input_type = _renamed(method.input_type)
            method.output_type = _renamed(method.output_type)
        pool.AddSerializedFile(described.SerializeToString())


def _renamed(type_name: str) -> str:
    return type_name.replace(".grpc.reflection.v1alpha.", ".grpc.reflection.v1.", 1)
