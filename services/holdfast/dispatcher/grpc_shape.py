"""The request of a method is learned from the server itself, by reflection, and made from JSON."""

from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError, Message
from grpc_reflection.v1alpha import reflection_pb2

# One protocol under two names; older servers have the second alone.
_PATHS: Final = tuple(
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha")
)
_MOST_FILES: Final = 500

Files = dict[str, descriptor_pb2.FileDescriptorProto]


class ShapeUnknownError(Exception):
    """The server does not say what the method takes; nothing was sent to it."""


class BodyUnfitError(Exception):
    """The effect's body is no JSON of what the method takes."""


async def input_of(channel: grpc.aio.Channel, method: str) -> type[Message]:
    """Return what `package.Service/Method` takes. Raises `ShapeUnknownError`, or as grpc does."""
    service, _, name = method.rpartition("/")
    files = await _ask(channel, service)
    pool = descriptor_pool.DescriptorPool()
    try:
        for file in files.values():
            _add(pool, files, file, set())
        found = pool.FindServiceByName(service).methods_by_name[name]
    except (KeyError, TypeError, DecodeError) as error:
        raise ShapeUnknownError(f"The server describes no method {method}.") from error
    if found.client_streaming or found.server_streaming:
        raise ShapeUnknownError(f"The server describes no unary method {method}.")
    return message_factory.GetMessageClass(found.input_type)


def encoded(shape: type[Message], body: Any) -> bytes:
    """Return a body as the request's bytes. Raises `BodyUnfitError`."""
    name = shape.DESCRIPTOR.full_name
    if not isinstance(body, dict) and not name.startswith("google.protobuf."):  # an empty list would pass
        raise BodyUnfitError(f"The body is no {name}.")
    try:
        return json_format.ParseDict(body, shape()).SerializeToString(deterministic=True)
    except (json_format.ParseError, AttributeError, TypeError, ValueError) as error:
        raise BodyUnfitError(f"The body is no {name}.") from error


async def _ask(channel: grpc.aio.Channel, service: str) -> Files:
    """Ask for the file of a service and all it stands on, under the newer name first."""
    try:
        return await _files(channel, _PATHS[0], service)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            raise
    try:
        return await _files(channel, _PATHS[1], service)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        raise ShapeUnknownError("The server serves no reflection.") from error


async def _files(channel: grpc.aio.Channel, path: str, service: str) -> Files:
    call: Any = channel.stream_stream(
        path,
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )()
    files: Files = {}
    try:
        asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)
        while True:
            await call.write(asked)
            answer = await call.read()
            if answer is grpc.aio.EOF or not answer.HasField("file_descriptor_response"):
                raise ShapeUnknownError(f"The server describes no service {service}.")
            for raw in answer.file_descriptor_response.file_descriptor_proto:
                file = descriptor_pb2.FileDescriptorProto.FromString(raw)
                files[file.name] = file
            missing = {name for file in files.values() for name in file.dependency} - files.keys()
            if not missing:
                return files
            if len(files) > _MOST_FILES:
                raise ShapeUnknownError("The server describes itself in too many files.")
            asked = reflection_pb2.ServerReflectionRequest(file_by_filename=min(missing))
    finally:
        call.cancel()


def _add(
    pool: descriptor_pool.DescriptorPool,
    files: Files,
    file: descriptor_pb2.FileDescriptorProto,
    above: set[str],
) -> None:
    """Add a file after what it stands on; a circle is no description."""
    if _has(pool, file.name):
        return
    if file.name in above:
        raise TypeError(f"{file.name} stands on itself")
    for name in file.dependency:
        _add(pool, files, files[name], above | {file.name})
    pool.AddSerializedFile(file.SerializeToString())


def _has(pool: descriptor_pool.DescriptorPool, name: str) -> bool:
    try:
        pool.FindFileByName(name)
    except KeyError:
        return False
    return True
