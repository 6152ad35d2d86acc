"""The contract as its descriptor set tells it: every element with its comment."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

ROOT = Path(__file__).parents[2]
PACKAGE = "holdfast.v1"
ERRORS = re.compile(r"Errors include: ([A-Z_, ]+?)(, and those of (\w+))?\.$")

# What elements consist of: kind, attribute, and its field number in descriptor.proto, for the paths.
_PARTS: dict[str, list[tuple[str, str, int]]] = {
    "file": [("message", "message_type", 4), ("enum", "enum_type", 5), ("service", "service", 6)],
    "message": [
        ("field", "field", 2),
        ("message", "nested_type", 3),
        ("enum", "enum_type", 4),
        ("oneof", "oneof_decl", 8),
    ],
    "enum": [("value", "value", 2)],
    "service": [("rpc", "method", 2)],
    "field": [],
    "oneof": [],
    "value": [],
    "rpc": [],
}
_SERVICES, _METHODS = 6, 2


@dataclass(frozen=True)
class Element:
    """One element of the contract: its kind, its full name, its comment as one line."""

    kind: str
    name: str
    comment: str


@dataclass(frozen=True)
class Rpc:
    """One RPC; `path` is what goes over the wire."""

    path: str
    comment: str
    client_streaming: bool
    server_streaming: bool

    @property
    def service(self) -> str:
        return self.path.split("/")[1]

    @property
    def method(self) -> str:
        return self.path.split("/")[2]


def contract() -> list[descriptor_pb2.FileDescriptorProto]:
    """Return our files, without the well-known types."""
    read = (ROOT / "gen/holdfast.binpb").read_bytes()
    return [
        file for file in descriptor_pb2.FileDescriptorSet.FromString(read).file if file.package == PACKAGE
    ]


def elements() -> list[Element]:
    """Return everything that can have a comment."""
    return [element for file in contract() for element in _elements(file)]


def rpcs() -> list[Rpc]:
    """Return every RPC."""
    return [
        Rpc(
            f"/{PACKAGE}.{service.name}/{method.name}",
            _comments(file).get((_SERVICES, place, _METHODS, number), ""),
            method.client_streaming,
            method.server_streaming,
        )
        for file in contract()
        for place, service in enumerate(file.service)
        for number, method in enumerate(service.method)
    ]


def errors_of(rpc: Rpc) -> set[str]:
    """Return the reasons that an RPC's comment ends with, those of the RPC it refers to included."""
    found = ERRORS.search(rpc.comment)
    assert found, f"the comment of {rpc.path} does not end with 'Errors include: …': {rpc.comment!r}"
    named = set(found[1].split(", "))
    for other in rpcs():
        if found[3] and (other.service, other.method) == (rpc.service, found[3]):
            return named | errors_of(other)
    assert not found[3], f"{rpc.path} refers to {found[3]}, which its service does not have"
    return named


def _elements(file: descriptor_pb2.FileDescriptorProto) -> Iterator[Element]:
    comments = _comments(file)

    def walk(kind: str, items: Any, path: tuple[int, ...], within: str) -> Iterator[Element]:
        for number, item in enumerate(items):
            if kind == "message" and item.options.map_entry:
                continue  # protobuf's own message behind a map
            if kind == "oneof" and item.name.startswith("_"):
                continue  # protobuf's own oneof around an optional field
            place, name = (*path, number), f"{within}.{item.name}"
            yield Element(kind, name, comments.get(place, ""))
            for part, attribute, tag in _PARTS[kind]:
                yield from walk(part, getattr(item, attribute), (*place, tag), name)

    for kind, attribute, tag in _PARTS["file"]:
        yield from walk(kind, getattr(file, attribute), (tag,), PACKAGE)


def _comments(file: descriptor_pb2.FileDescriptorProto) -> dict[tuple[int, ...], str]:
    return {
        tuple(place.path): " ".join(place.leading_comments.split())
        for place in file.source_code_info.location
    }
