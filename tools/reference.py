"""Writes docs/reference from the descriptor set: one page for each file of the contract, and an index.

    python -m tools.reference [--check]

What it says is what the protos' comments say, with links between what they name. With `--check` nothing is
written: it ends with 1 if a page is not as it would be written.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2

from holdfast.v1 import sealing_pb2

ROOT: Final = Path(__file__).parents[1]
DESCRIPTORS: Final = ROOT / "gen/holdfast.binpb"
PAGES: Final = ROOT / "docs/reference"
PACKAGE: Final = "holdfast.v1"

File = descriptor_pb2.FileDescriptorProto
Field = descriptor_pb2.FieldDescriptorProto

_MESSAGE, _ENUM, _SERVICE = 4, 5, 6
_FIELD, _VALUE, _METHOD, _ONEOF = 2, 2, 2, 8
_EXTENSION = 7
_SCALARS: Final = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()
}
_LEAD: Final = """\
Written by `make gen` from the comments in [`protos/holdfast/v1`](../../protos/holdfast/v1), to change there.
"""
_SEALABLE: Final = " [Sealable](sealing.md)."


@dataclass(frozen=True)
class Contract:
    """Our files, where each type is told, and the comments."""

    files: tuple[File, ...]
    homes: Mapping[str, str]
    entries: Mapping[str, Any]
    """The messages that protobuf makes for maps, by full name."""

    def link(self, full_name: str) -> str:
        """Return a link to a type, or its name if it is Google's."""
        name = full_name.removeprefix(f".{PACKAGE}.")
        if name not in self.homes:
            return f"`{full_name.removeprefix('.')}`"
        return f"[{name}]({self.homes[name]}.md#{name.lower()})"

    def linked(self, comment: str) -> str:
        """Return a comment with links for the types it names in backticks, alone or with a field."""

        def replace(found: re.Match[str]) -> str:
            home = self.homes.get(found[1])
            return found[0] if home is None else f"[{found[0]}]({home}.md#{found[1].lower()})"

        return re.sub(r"`([A-Z]\w+)(?:\.\w+)*`", replace, comment)


def read(descriptors: bytes) -> Contract:
    """Read the contract out of a descriptor set with comments."""
    every = descriptor_pb2.FileDescriptorSet.FromString(descriptors).file
    files = tuple(sorted((file for file in every if file.package == PACKAGE), key=lambda file: file.name))
    homes: dict[str, str] = {}
    entries: dict[str, Any] = {}
    for file in files:
        named: Any
        for named in (*file.message_type, *file.enum_type, *file.service):
            homes[named.name] = Path(file.name).stem
        for message in file.message_type:
            for nested in message.nested_type:
                entries[f".{PACKAGE}.{message.name}.{nested.name}"] = nested
    return Contract(files, homes, entries)


def pages(contract: Contract) -> dict[str, str]:
    """Return the text of every page by its name."""
    written = {f"{Path(file.name).stem}.md": "\n".join(_page(contract, file)) for file in contract.files}
    return {"README.md": "\n".join(_index(contract)), **written}


def _index(contract: Contract) -> Iterator[str]:
    yield f"# The contract, `{PACKAGE}`\n\n{_LEAD}"
    for file in contract.files:
        comments = _comments(file)
        for at, service in enumerate(file.service):
            yield f"## [{service.name}]({Path(file.name).stem}.md)\n"
            yield f"{contract.linked(_line(comments[_SERVICE, at]))}\n\n| RPC | |\n|---|---|"
            for number, method in enumerate(service.method):
                first = _sentence(comments[_SERVICE, at, _METHOD, number])
                yield f"| [{method.name}]({Path(file.name).stem}.md#{method.name.lower()}) | {_cell(first)} |"
            yield ""
    yield "## Messages and enums\n"
    for file in contract.files:
        types: list[Any] = [*file.message_type, *file.enum_type]
        names = [contract.link(f".{PACKAGE}.{each.name}") for each in types]
        if names:
            yield f"* [`{Path(file.name).name}`]({Path(file.name).stem}.md): {', '.join(names)}"
    yield ""


def _page(contract: Contract, file: File) -> Iterator[str]:
    comments = _comments(file)
    yield f"# `{file.name}`\n\n{_LEAD}"
    for at, service in enumerate(file.service):
        yield f"## {service.name}\n\n{_prose(contract, comments[_SERVICE, at])}\n"
        for number, method in enumerate(service.method):
            asked = "stream " * method.client_streaming + contract.link(method.input_type)
            told = "stream " * method.server_streaming + contract.link(method.output_type)
            yield f"### {method.name}\n\n({asked}) → {told}\n"
            yield f"{_prose(contract, comments[_SERVICE, at, _METHOD, number])}\n"
    for at, option in enumerate(file.extension):
        yield f"## The option {option.name} of fields\n\n{_prose(contract, comments[_EXTENSION, at])}\n"
    for at, message in enumerate(file.message_type):
        yield from _message(contract, message, at, comments)
    for at, enum in enumerate(file.enum_type):
        yield f"## {enum.name}\n\n{_prose(contract, comments[_ENUM, at])}\n\n| value | | |\n|---|---|---|"
        for number, value in enumerate(enum.value):
            told = contract.linked(_cell(comments[_ENUM, at, _VALUE, number]))
            yield f"| `{value.name}` | {value.number} | {told} |"
        yield ""


def _message(
    contract: Contract, message: Any, at: int, comments: Mapping[tuple[int, ...], str]
) -> Iterator[str]:
    yield f"## {message.name}\n\n{_prose(contract, comments[_MESSAGE, at])}\n"
    oneofs = {
        number: oneof.name
        for number, oneof in enumerate(message.oneof_decl)
        if not oneof.name.startswith("_")  # protobuf's own, around an optional field
    }
    for number, name in oneofs.items():
        told = contract.linked(_line(comments[_MESSAGE, at, _ONEOF, number]))
        yield f"One of `{name}`: {told[0].lower()}{told[1:]}\n"
    if message.field:
        yield "| field | type | |\n|---|---|---|"
    for number, field in enumerate(message.field):
        among = oneofs.get(field.oneof_index) if field.HasField("oneof_index") else None
        told = contract.linked(_cell(comments[_MESSAGE, at, _FIELD, number]))
        yield (
            f"| `{field.name}` = {field.number} | {_type(contract, field)} | "
            f"{f'({among}) ' if among else ''}{told}{_SEALABLE * _is_sealable(field)} |"
        )
    yield ""


def _is_sealable(field: Field) -> bool:
    return bool(field.options.Extensions[sealing_pb2.sealable])


def _type(contract: Contract, field: Field) -> str:
    if field.type_name in contract.entries:
        key, value = contract.entries[field.type_name].field
        return f"map of `{_SCALARS[key.type]}` to {_type(contract, value)}"
    named = contract.link(field.type_name) if field.type_name else f"`{_SCALARS[field.type]}`"
    if field.proto3_optional:
        return f"optional {named}"
    return f"repeated {named}" if field.label == Field.LABEL_REPEATED else named


def _comments(file: File) -> dict[tuple[int, ...], str]:
    return {tuple(place.path): place.leading_comments for place in file.source_code_info.location}


def _line(comment: str) -> str:
    return " ".join(comment.split())


def _cell(comment: str) -> str:
    return _line(comment).replace("|", "\\|")


def _sentence(comment: str) -> str:
    """Return the first sentence."""
    return re.split(r"(?<=[.:;])\s", _line(comment), maxsplit=1)[0].rstrip(":;")


def _prose(contract: Contract, comment: str) -> str:
    """Return a comment's paragraphs."""
    paragraphs = re.split(r"\n\s*\n", comment.strip("\n"))
    return "\n\n".join(contract.linked(_line(paragraph)) for paragraph in paragraphs)


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` say which are not as they would be written."""
    wanted = pages(read(DESCRIPTORS.read_bytes()))
    there = {path.name: path.read_text() for path in PAGES.glob("*.md")}
    stale = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
    if arguments == ["--check"]:
        for name in stale:
            sys.stderr.write(f"docs/reference/{name} is stale: run 'make gen' and commit it\n")
        return 1 if stale else 0
    if arguments:
        sys.stderr.write(str(__doc__))
        return 2
    PAGES.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in wanted:
            (PAGES / name).write_text(wanted[name])
        else:
            (PAGES / name).unlink()
    if stale:
        sys.stdout.write("docs/reference is written anew\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
